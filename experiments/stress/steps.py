"""Stress checks of what happens inside the steps: other numbers of devices, values that are not finite, and memory."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import jax
import numpy as np

from experiments.stress.kill import StopAt
from experiments.stress.runs import SOURCES, Child, Outcome, copy, fresh, rows, start, tiny
from jaxml.training.callbacks import Callback
from jaxml.training.run import Run


class Gradients(Callback):
    """Writes the gradient of every step, from Adam's first moments before and after it, into one array on disk."""

    def __init__(self, file: str):
        self._file, self._found = file, []

    def on_begin(self, run: Run) -> None:
        self._before = self._moments(run)

    def on_step(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        after = self._moments(run)
        self._found.append((after - 0.9 * self._before) / 0.1)
        self._before = after
        np.save(self._file, np.array(self._found))

    def _moments(self, run: Run) -> np.ndarray:
        named = jax.tree_util.tree_leaves_with_path(run.state.opt_state)
        own = [np.asarray(x, np.float64).ravel() for path, x in named if ".mu" in jax.tree_util.keystr(path)]
        return np.concatenate(own)


def devices(out: Path, quick: bool) -> Outcome:
    """Runs resumed on another number of devices: losses and gradients of 20 steps, compared with an unchanged run."""
    pairs = [(4, 1)] if quick else [(4, 1), (4, 2), (1, 4), (2, 4)]
    figures: dict[str, object] = {}
    passed = True
    for saved, resumed in pairs:
        # A bias in front of BatchNorm has a gradient of 0 up to rounding, which Adam would scale up to a whole step.
        config = tiny(
            out,
            steps=30,
            eval_every=30,
            save_every=10,
            groups=(("backbone/(bn0|conv1|conv2|fc1)/bias", 0.0),),
        )
        first = start(config, fresh(out, "devices"))
        Child(first, "--train.devices", str(saved), hook=StopAt, args=(10,), devices=4).wait()
        losses, gradients = [], []
        for count in (saved, resumed):
            workdir = copy(first, fresh(out, "devices"))
            file = str(workdir / "gradients.npy")
            child = Child(workdir, "--train.devices", str(count), hook=Gradients, args=(file,), devices=4)
            if child.wait() != 0:
                raise RuntimeError(child.last_line())
            losses.append(
                np.array([row["loss"] for row in rows(workdir) if "loss" in row and row["step"] > 10])
            )
            gradients.append(np.load(file))
        of_loss = float(np.max(np.abs(losses[0] - losses[1]) / np.abs(losses[0])))
        lengths = np.linalg.norm(gradients[0], axis=1)
        of_gradient = float(np.max(np.linalg.norm(gradients[0] - gradients[1], axis=1) / lengths))
        passed &= len(losses[0]) == 20 and of_loss < 1e-5 and of_gradient < 1e-5 and np.ptp(losses[0]) > 0
        figures[f"{saved} -> {resumed}"] = (
            f"loss {of_loss:.1e}, gradient {of_gradient:.1e} relative, worst of 20 steps"
        )
    return Outcome(bool(passed), figures)


def spoil(step: int, what: str, value: float) -> None:
    """From `step` on, make the loss or one tensor of the gradient NaN or infinite."""
    import jax.numpy as jnp

    from jaxml.training import step as training

    gradients = training.gradients

    def spoiled(learner, state, *args):
        loss, aux, grads, *rest = gradients(learner, state, *args)
        bad = jnp.where(state.step + 1 >= step, jnp.float32(value), 0.0)
        if what == "loss":
            return loss + bad, aux, grads, *rest
        kernel = grads["head"]["kernel"]
        return loss, aux, {**grads, "head": {**grads["head"], "kernel": kernel + bad}}, *rest

    training.gradients = spoiled


def collapse(step: int) -> None:
    """From `step` on, make all embeddings equal."""
    import jax.numpy as jnp

    from jaxml.training import step as training

    features = training.features

    def equal(*args, **named):
        outputs, stats = features(*args, **named)
        return jnp.ones_like(outputs) + 0 * outputs, stats

    training.features = equal


def numbers(out: Path, quick: bool) -> Outcome:
    """NaN and infinity in loss and gradient on both input paths, and embeddings that collapse."""
    cases = [(what, value) for what in ("loss", "gradient") for value in (np.nan, np.inf)]
    cases = cases[1:3] if quick else cases
    good, said = 0, set()
    for i, (what, value) in enumerate(cases):
        step = 5 + i
        workdir = start(
            tiny(out, source=SOURCES[i % len(SOURCES)], steps=20, save_every=1), fresh(out, "numbers")
        )
        child = Child(workdir, hook=spoil, args=(step, what, float(value)))
        code, line = child.wait(), child.last_line()
        said.add(line[:90])
        kept = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
        named = (
            f"at step {step};" in line and ("loss" if what == "loss" else "gradient of head/kernel") in line
        )
        good += code == 1 and named and kept[-1] == step - 1
    workdir = start(tiny(out, steps=30, eval_every=30), fresh(out, "collapse"))
    child = Child(workdir, hook=collapse, args=(0,))
    child.wait()
    text = child.log.read_text()
    reported = [f"{part} images are equal" in text for part in ("validation", "test")]
    reported.append("every triplet was active and the loss at the margin" in text)
    figures = {
        "step and tensor named, code 1, nothing of that step saved": f"{good} of {len(cases)}",
        "said": " / ".join(sorted(said)),
        "collapse reported by training, validation and test": f"{sum(reported)} of 3",
    }
    return Outcome(good == len(cases) and all(reported), figures)


class Memory(Callback):
    """Writes memory and number of compilations of this process at regular steps."""

    def __init__(self, file: str, every: int):
        self._file, self._every, self._compiled = file, every, 0
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, name: str, *_: object, **__: object) -> None:
        self._compiled += name == "/jax/core/compile/backend_compile_duration"

    def on_step(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        if step % self._every:
            return
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        row = {
            "step": step,
            "host": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            "device": sum(x.nbytes for x in jax.live_arrays()) / 2**20,
            "arrays": len(jax.live_arrays()),
            "compiled": self._compiled,
        }
        with open(self._file, "a") as out:
            out.write(json.dumps(row) + "\n")


def memory(out: Path, quick: bool) -> Outcome:
    """A long run with validations and checkpoints: memory of host and device, and compilations, must not grow."""
    steps = 400 if quick else 10_000
    config = tiny(out, steps=steps, eval_every=steps // 10, save_every=steps // 10, log_every=10)
    workdir = start(config, fresh(out, "memory"))
    file = workdir / "memory.jsonl"
    begin = time.monotonic()
    child = Child(workdir, hook=Memory, args=(str(file), steps // 20))
    if child.wait(900) != 0:
        raise RuntimeError(child.last_line())
    found = [json.loads(line) for line in file.read_text().splitlines()]
    # By then everything has been done once.
    early = next(row for row in found if row["step"] >= steps // 5)
    last = found[-1]
    grown = {name: last[name] - early[name] for name in ("host", "device", "arrays", "compiled")}
    host = f"host {early['host']:.0f} -> {last['host']:.0f} MiB"
    device = f"device {early['device']:.2f} -> {last['device']:.2f} MiB in {last['arrays']} arrays"
    figures = {
        f"from step {early['step']} to {last['step']}": f"{host}, {device}",
        "compilations meanwhile": grown["compiled"],
        "ms a step, with all": round(1000 * (time.monotonic() - begin) / steps, 1),
    }
    passed = grown["host"] < max(10, 0.02 * early["host"]) and grown["device"] <= 0
    return Outcome(passed and grown["arrays"] <= 0 and grown["compiled"] == 0, figures)


CHECKS = {"devices": devices, "numbers": numbers, "memory": memory}
