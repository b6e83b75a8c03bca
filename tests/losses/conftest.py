"""What the tests of losses share."""

import jax
import pytest


@pytest.fixture
def hardly_optimized():
    """Compile with hardly any optimization, for programs that run once: it costs most of the time of their tests."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
