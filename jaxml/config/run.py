"""The configuration of a run: all its options, and which of their values fit together."""

from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from jaxml.arguments import shown
from jaxml.config import checks
from jaxml.config.schema import Data, Distill, Eval, Loss, Model, Optim, Train, Triplets


@dataclass(frozen=True)
class Config:
    """One run.

    Raises:
        ValueError: an option has a value that it cannot have, or two options exclude each other; names them.
    """

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    distill: Distill = field(default_factory=Distill)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    triplets: Triplets = field(default_factory=Triplets)
    eval: Eval = field(default_factory=Eval)

    def __post_init__(self) -> None:
        """Check every section; one given as a table of options becomes its dataclass, and lists become tuples."""
        for name, kind in SECTIONS.items():
            part = checks.checked(kind, getattr(self, name), f"{name}.")
            object.__setattr__(self, name, part)  # the class is frozen for everyone else
        self._check_sizes()
        if self.train.steps_per_call > 1:
            self._check_steps_per_call()
        if self.train.patience and self.data.train_on != "train":
            raise ValueError(
                f"--train.patience needs --data.train_on train: with {self.data.train_on} no classes are left to "
                f"validate by"
            )
        if self.train.mode == "input_triplets":
            self._check_triplets()

    def _check_sizes(self) -> None:
        sizes, most = self.loss.nested_sizes, self.model.feature_size
        if list(sizes) != sorted(set(sizes)):
            raise ValueError(
                f"--loss.nested_sizes is {' '.join(map(str, sizes))}; it must be in ascending order, each size once"
            )
        if sizes and sizes[-1] >= most:
            raise ValueError(
                f"--loss.nested_sizes has {sizes[-1]}; it must be less than --model.feature_size, which is {most}"
            )
        if self.eval.feature_size > most:
            raise ValueError(
                f"--eval.feature_size is {self.eval.feature_size}; it must be at most --model.feature_size, which is "
                f"{most}"
            )

    def _check_steps_per_call(self) -> None:
        if self.data.input != "resident":
            raise ValueError(
                "--train.steps_per_call needs --data.input resident: streamed batches come one at a time"
            )
        for name in ("steps", "eval_every", "save_every"):
            steps, each = getattr(self.train, name), self.train.steps_per_call
            if steps % each:
                raise ValueError(
                    f"--train.{name} is {steps}; it must be a multiple of --train.steps_per_call, which is {each}"
                )

    def _check_triplets(self) -> None:
        if self.loss.name != "triplet":
            raise ValueError(
                f"--train.mode input_triplets needs --loss.name triplet, whose formulas it uses; not "
                f"{shown(self.loss.name)}"
            )
        batches = {
            "loss.memory_size": self.loss.memory_size,
            "loss.class_weights": self.loss.class_weights,
            "data.category": self.data.category,
        }
        for option, value in batches.items():
            if value:
                raise ValueError(f"--{option} needs --train.mode batch: triplets are drawn and weighed alike")
        if self.train.steps_per_call > 1:
            raise ValueError(
                "--train.steps_per_call needs --train.mode batch: triplets come one batch at a time"
            )
        if self.data.classes_per_batch * self.data.images_per_class % 3:
            raise ValueError(
                "--train.mode input_triplets divides the batch into triplets: --data.classes_per_batch x "
                "--data.images_per_class must be a multiple of 3"
            )


SECTIONS: dict[str, Any] = {section.name: section.type for section in fields(Config)}
"""The dataclass of each section, by name."""


@cache
def options() -> dict[str, checks.Schema]:
    """The JSON schema of every option by its name `section.option`: description, default, type, choices, limits."""
    return {
        f"{section}.{name}": schema
        for section, kind in SECTIONS.items()
        for name, schema in checks.schemas(kind).items()
    }
