"""Plans: targets, the search for the largest batch, the summary, and one plan from end to end."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxml import distributed
from jaxml.config import Config, Data, Loss, Model
from jaxml.config.presets import PRESETS
from jaxml.errors import RunError
from jaxml.planning import compiler, program, targets
from jaxml.planning.account import Account, Collective
from jaxml.planning.compiler import Compiled, Memory, Request, TooLarge
from jaxml.planning.plan import SEARCH, plan
from jaxml.planning.program import data_set
from jaxml.planning.summary import advice, summary
from jaxml.planning.targets import target
from jaxml.training import devices as on_devices
from jaxml.training import inputs
from jaxml.training.learner import create

MIB = 2**20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9", "--for v9: unknown; give v5e:4x4, v5p:2x2x2, v6e:4x4, h100:8, cpu"),
        ("v5e:4", "--for v5e:4: give their arrangement, such as v5e:4x4"),
        ("v5e:", "--for v5e:: give their arrangement, such as v5e:4x4"),
        ("v5e:0x4", "--for v5e:0x4: give their arrangement"),
        ("h100:2x4", "--for h100:2x4: give a number of chips, such as h100:8"),
        ("h100:12", "--for h100:12: give at most 8, or a multiple of 8"),
        ("cpu:-1", "--for cpu:-1: give a number of chips, such as cpu:4"),
    ],
)
def test_unknown_targets_are_named(name, message):
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        target(name)


def test_targets_count_their_chips():
    assert [target(n).count for n in ("v5e", "v5e:4x4", "v5p:2x2x2", "h100:8", "h100", "cpu:3")] == [
        1,
        16,
        8,
        8,
        1,
        3,
    ]


def test_a_cpu_device_has_its_share_of_the_memory():
    assert target("cpu:4").chip.memory == pytest.approx(target("cpu").chip.memory / 4, rel=0.1)


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "plan-tpu"), ("h100:8", "plan-gpu")])
def test_a_missing_compiler_is_one_line(name, extra, monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(
        ValueError, match=rf"^--for {name} needs its compiler: `pip install jaxml\[{extra}\]`$"
    ):
        target(name).check_installed()


def test_the_compiler_finds_a_clean_environment(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setenv("XLA_FLAGS", "--nonsense")
    monkeypatch.setenv("HOME", "/here")
    found = target("cpu:2").environment()
    assert found["JAX_PLATFORMS"] == "cpu"
    assert found["XLA_FLAGS"] == "--xla_force_host_platform_device_count=2"
    assert found["HOME"] == "/here"
    assert "XLA_FLAGS" not in target("v5e").environment()


def small(**data):
    return Config(
        data=Data(source="folder", size=32, stored_size=40, classes_per_batch=8, images_per_class=4, **data),
        model=Model(backbone="simple"),
        loss=Loss("multi_similarity"),
    )


def linear(fixed, per_image, refuse=False):
    """A stand-in for the compiler: memory is a linear function of the batch. Also the batches that it was asked for."""
    asked = []

    def compile_step(request):
        data = request.config.data
        batch = data.classes_per_batch * data.images_per_class
        asked.append((data.classes_per_batch, request.classes))
        memory = Memory(10 * MIB, fixed * MIB - 10 * MIB, per_image * batch * MIB, 0)
        if refuse and memory.total > request.target.chip.memory:
            return TooLarge(0.0, 1.0)
        return Compiled(memory, Account(), 1.0)

    return compile_step, asked


@pytest.mark.parametrize("refuse", [False, True])
@pytest.mark.parametrize("per_image", [0.5, 3, 40, 200, 1500])
def test_the_largest_batch_is_found_to_a_tenth(per_image, refuse):
    compile_step, asked = linear(100, per_image, refuse)
    chips = target("v5e:2x2")
    found = plan(small(), chips, 1000, 10, compile_step=compile_step)
    limit = (chips.chip.memory / MIB - 100) / per_image
    assert len(asked) == len(found.tried) <= SEARCH + 1
    if limit < 4:
        assert found.largest is None
    else:
        assert 0.85 * limit - 4 <= found.largest.images <= limit
    assert found.fits is (limit >= 32)
    # The batch is divided among the chips, and its classes are there.
    assert all(classes <= there for classes, there in asked)


def test_a_batch_is_a_multiple_of_the_chips():
    compile_step, asked = linear(100, 3)
    config = small()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, images_per_class=3))
    plan(config, target("v5e:4x4"), 1000, 10, compile_step=compile_step)
    assert len(asked) > 1
    assert all(classes % 16 == 0 for classes, _ in asked[1:])


def test_without_a_search_one_program_is_compiled():
    compile_step, asked = linear(100, 3)
    plan(small(), target("v5e"), 1000, 10, search=False, compile_step=compile_step)
    assert asked == [(8, 10)]


def full():
    """A plan whose every number is known."""
    account = Account(
        hbm_bytes={"network": 819e6, "loss": 1e6},
        operations={"network": {"bfloat16": 197e9}, "loss": {"float32_highest": 197e8}},
        collectives={"all-reduce": Collective(2, 4e6)},
        link_bytes=6e6,
        gathers_in_loops=1,
        open_loops=2,
    )
    step = Compiled(Memory(2**30, 2**29, 2**31, 0), account, 12.0)
    return plan(small(), target("v5e:2x2"), 1000, 10, search=False, compile_step=lambda request: step)


def test_the_lower_bound_is_that_of_the_scarcest():
    # 197 TFLOP/s, a sixth of it at the highest precision; 819 GB/s; 200 GB/s.
    assert full().bounds == pytest.approx(
        {"matrix products": 1e-3 + 6e-4, "memory traffic": 820e6 / 819e9, "links": 3e-5}
    )


def test_the_summary_says_what_was_found():
    text = "\n".join(summary(full()))
    for part in (
        "memory a chip: 3.50 GiB of 15.75 GiB: it fits",
        "collectives: all-reduce 2 (4.00 MB); each chip sends at least 6.00 MB",
        "in loops: 1 gather, 0 scatters; 2 loops of a length that only the data decides",
        "lower bound of a step from published peaks: 1.60 ms, by matrix products",
        "at most 20,000 images/s",
        "compiled, not measured",
    ):
        assert part in text
    assert "what helps" not in text


def test_a_batch_that_does_not_fit_is_said_not_to_and_what_helps():
    compile_step, _ = linear(1000, 1000, refuse=True)
    found = plan(small(), target("v5e"), 10**7, 10, compile_step=compile_step)
    text = "\n".join(summary(found))
    assert "memory a chip: more than 15.75 GiB: it does not fit" in text
    assert f"--data.classes_per_batch {found.largest.classes}: the largest batch" in text
    helps = " ".join(advice(found))
    for option in ("--data.input tf_data", "--model.dtype bfloat16", "--model.remat", "--train.chunk 8"):
        assert option in helps
    # A chunk that fits, and divides the 32 images.
    assert found.largest.images == 12
    done = dataclasses.replace(
        found,
        config=dataclasses.replace(
            found.config,
            data=dataclasses.replace(found.config.data, input="tf_data"),
            model=dataclasses.replace(found.config.model, dtype="bfloat16", remat=True),
            train=dataclasses.replace(found.config.train, chunk=8),
        ),
    )
    assert not any(option in " ".join(advice(done)) for option in ("tf_data", "bfloat16", "remat", "chunk"))


def test_plans_are_plain_values():
    found = json.loads(json.dumps(full().to_dict()))
    assert found["memory"]["total"] == 3.5 * 2**30
    assert found["collectives"] == {"all-reduce": {"number": 2, "result_bytes": 4e6}}


def test_sizes_of_data_sets():
    assert data_set(PRESETS["cub_best"], 0, 0) == (5_894, 100)
    assert data_set(PRESETS["cub_squeezenet"], 0, 0) == (4_715, 80)
    assert data_set(PRESETS["cub_best"], 500, 20) == (250, 10)
    with pytest.raises(ValueError, match="say how large it is, with --images and --classes"):
        data_set(small(), 0, 20)


def test_what_compilers_say_of_memory():
    gib = 2**30
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 33.50G of 15.75G hbm. Exceeded"
    assert compiler._needed(said) == 33.5 * gib
    assert compiler._needed("the total memory required for HLO temporaries (144.75G) exceeds") == 144.75 * gib
    assert compiler._needed("RESOURCE_EXHAUSTED") == 0


def _ends(monkeypatch, code):
    """Make the compiling process end in a given way."""
    real = subprocess.run
    monkeypatch.setattr(
        compiler.subprocess, "run", lambda command, **options: real([sys.executable, "-c", code], **options)
    )


def test_a_crash_of_the_compiler_is_one_line(monkeypatch):
    _ends(monkeypatch, f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})")
    with pytest.raises(RunError, match=r"^the compiler for cpu crashed \(SIGSEGV\)$"):
        compiler.run(Request(small(), target("cpu"), 10, 8))


def test_a_failure_of_the_compiler_is_one_line(monkeypatch):
    _ends(monkeypatch, "raise SystemExit('first\\nwhat went wrong')")
    with pytest.raises(RunError, match=r"^the compiler for cpu failed: what went wrong$"):
        compiler.run(Request(small(), target("cpu"), 10, 8))


def test_devices_that_are_not_there_are_taken_as_they_are():
    pretended = [object(), object()]
    assert distributed.everywhere(pretended) == pretended
    assert distributed.everywhere(jax.local_devices()[:2]) == jax.local_devices()[:2]


def script(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "jaxml", "plan", *words],
        capture_output=True,
        text=True,
        env={**os.environ},
        **options,
    )


def test_plan_from_end_to_end(tmp_path):
    out = tmp_path / "plan"
    done = script("--preset", "glyphs_simple", "--for", "cpu:2", "--no-largest", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "cpu:2: 2 x CPU, 128 images a step, 64 on each chip, 48 px, simple in float32" in done.stdout
    found = json.loads((out / "plan.json").read_text())
    assert (out / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert (found["fits"], found["chips"], found["images"], found["classes"]) == (True, 2, 4_000, 80)
    # The images to learn from are resident, each device holds half of them.
    assert found["memory"]["images"] == 2_000 * 64 * 64 * 3
    # The gradients of 872,007 parameters, and a few numbers, are averaged over both devices.
    assert found["collectives"]["all-reduce"]["result_bytes"] > 4 * 800_000
    assert found["operations"]["network"]["float32"] > found["operations"]["loss"]["float32_highest"] > 0
    assert {"input", "network", "loss", "update"} <= set(found["hbm_bytes"])


def test_wrong_options_are_one_line(tmp_path):
    out = tmp_path / "plan"
    done = script("--preset", "glyphs_best", "--for", "cpu")
    assert done.returncode == 2
    assert "--preset glyphs_best: give a JSON or YAML file, or one of glyphs_simple" in done.stderr
    done = script("--for", "cpu:3", "--out", str(out), "--no-largest")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the batch of 128 cannot be divided among 3 chips")
    assert not out.exists()


class Chosen(Exception):
    """A function and how its arguments are divided."""


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("source", ["resident", "tf_data"])
def test_the_step_is_the_one_that_training_calls(platform, source, monkeypatch):
    def parallel(function, in_axes, devices, out_axes=None):
        raise Chosen(function.func.__name__, function.args[1:], in_axes, out_axes)

    monkeypatch.setattr(on_devices, "parallel", parallel)
    monkeypatch.setattr(on_devices, "replicate", lambda tree, devices: tree)
    monkeypatch.setattr(inputs, "divided", lambda read, rows, devices: np.zeros(1))
    config = dataclasses.replace(PRESETS["glyphs_simple"], data=dataclasses.replace(Data(), input=source))
    devices = [SimpleNamespace(platform=platform)]
    labels = np.repeat(np.arange(20), 4)
    images = SimpleNamespace(
        index=SimpleNamespace(labels=labels, class_names=[*map(str, range(20))]),
        classes=lambda part: np.arange(20),
        rows=lambda part: np.arange(80),
        read=None,
        resident=source == "resident",
    )
    learner, _ = create(config, 20)
    run = SimpleNamespace(config=config, devices=devices, images=images, learner=learner, teacher=None)
    with pytest.raises(Chosen) as wanted:
        inputs.stepper(run, 0)
    with pytest.raises(Chosen) as found:
        program.lower(config, devices, 80, 20)
    assert found.value.args == wanted.value.args
