"""Settings of all tests: four CPU devices, and an accidental broadcast between ranks is an error."""

import os
import signal
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs are compiled in one part: two workers leave no threads for the others that XLA would cut them into.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4 "
    "--xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Tests, their workers and the processes that they start compile the same programs over and over.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="jaxml-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def programs_are_freed():
    """Free a module's compiled programs: each one maps memory, and a process may have 65,530 maps."""
    yield
    jax.clear_caches()


@pytest.fixture
def heeded_signals():
    """Handle signals as at a terminal, even if nohup or a shell made this process and its children ignore them."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
