"""Errors that end a run with one line that says what to do; every part of jaxml may raise them."""


class RunError(RuntimeError):
    """A run cannot start or go on."""


class Preempted(RunError):
    """A signal stopped the run after its state was saved."""


class TrainingFailed(RunError):
    """Numbers are not finite, or memory ran out: with these options the run cannot go on."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, unreadable, of another network, or could not be written."""


class DamagedCheckpoint(CheckpointError):
    """The files of a checkpoint can be read, but are not what was written."""


class MissingCheckpoint(CheckpointError):
    """A checkpoint is not there, or was deleted or replaced while it was read."""


class Interrupted(Exception):
    """A signal to stop came in the middle of work that can be done again."""
