"""What is done between the steps of a run: its record, its progress, and whatever a user adds."""

from __future__ import annotations

from jaxml.progress import Progress
from jaxml.training import history
from jaxml.training.run import Run


class Callback:
    """Methods that the training loop calls, in the order in which callbacks are given; each does nothing here.

    Of several processes of one run only the first calls them. `run.state` is the newest state, which on an accelerator
    may be one call to the device ahead of the step that is reported. An exception ends the run; what was saved before
    stays. `run.signals.received` says whether the run is about to stop.

    Example:
        >>> class Print(Callback):
        ...     def on_validation(self, run, step, metrics):
        ...         print(step, metrics["nmi"])
        >>> train(config, "runs/mine", callbacks=[Print()])  # doctest: +SKIP
    """

    def on_begin(self, run: Run) -> None:
        """Before the first step of this process; `run.state.step` is where it starts."""

    def on_step(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """After each step: `loss`, `active_share`, `grad_norm` and `images_per_second`, all of them finite."""

    def on_validation(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """After each clustering of the validation classes: what `evaluation.clustering.validate` returns."""

    def on_checkpoint(self, run: Run, step: int) -> None:
        """After a checkpoint of this step was written."""

    def on_end(self, run: Run) -> None:
        """After the last step, or when a signal or an error ends the loop before it."""


class Record(Callback):
    """Writes `metrics.jsonl`: every `train.log_every`-th step, and every validation."""

    def on_begin(self, run: Run) -> None:
        """Drop what an earlier process recorded of the steps that come again."""
        self._history = history.History(run.workdir / "metrics.jsonl", int(run.state.step))

    def on_step(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """Write every so many steps."""
        if step % run.config.train.log_every == 0:
            self._history.write({"step": step, **metrics})

    def on_validation(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """Write every validation."""
        self._history.write({"step": step, **{f"val_{name}": value for name, value in metrics.items()}})


class ShowProgress(Callback):
    """Shows steps, loss, share of active triplets and images per second on stderr, and the scores of validations."""

    def on_begin(self, run: Run) -> None:
        """Show the bar."""
        self._progress = Progress(
            "training", run.config.train.steps, "step", done=int(run.state.step), lasting=True
        )

    def on_step(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """Move on by one step."""
        loss, active, speed = (metrics[name] for name in ("loss", "active_share", "images_per_second"))
        self._progress.update(note=f"loss {loss:.4f}, active {active:.1%}, {speed:.0f} images/s")

    def on_validation(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """Write the scores."""
        self._progress.line(
            f"step {step}: validation NMI {metrics['nmi']:.4f}, F1 {metrics['f1']:.4f}, "
            f"Recall@1 {metrics['recall@1']:.4f}"
        )

    def on_end(self, run: Run) -> None:
        """Leave the bar as it is."""
        self._progress.close()
