"""The trace of a few calls: the right ones are traced, and others pass through unchanged."""

import jax
import jax.numpy as jnp

from jaxml.training.profiling import WARM_UP, traced


def test_traces_the_calls_asked_for(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: events.append(f"start {folder}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("stop"))

    def advance(state):
        events.append(int(state))
        return state + 1, {"loss": state}

    step, state = traced(advance, 2, tmp_path), jnp.int32(0)
    for turn in range(WARM_UP + 4):
        state, metrics = step(state)
        assert (int(state), int(metrics["loss"])) == (turn + 1, turn)
    assert events == [0, 1, f"start {tmp_path}", 2, 3, "stop", 4, 5]


def test_writes_a_trace_with_the_steps(tmp_path):
    double = jax.jit(lambda state: 2 * state)
    step, state = traced(lambda state: (double(state), {}), 2, tmp_path / "profile"), jnp.ones(8)
    for _ in range(WARM_UP + 3):
        state, _ = step(state)
    assert float(state[0]) == 2 ** (WARM_UP + 3)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert list((tmp_path / "profile").rglob("*.trace.json.gz"))
