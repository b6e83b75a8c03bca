"""Ways of mining: which positives of an anchor count, and which negatives with each of them.

A way of mining is a row of MINING: a choice of positives and a choice of negatives. Each choice is said for both forms
of the sweep: for a block of anchors, which CPUs compute, and for rows sorted by label, which accelerators compute where
both choices are said for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax

from jaxml.losses.kernels import negatives, positives, sweep, windows
from jaxml.losses.kernels.blocks import Block, Terms
from jaxml.losses.kernels.comparison import Prepare
from jaxml.losses.kernels.formulas import Formula, Options
from jaxml.losses.kernels.measures import Metric
from jaxml.losses.kernels.ordering import Rows
from jaxml.losses.kernels.positives import Which

Array = jax.Array


class Positives(NamedTuple):
    """Which positives of an anchor are mined."""

    of_block: Callable[[Array, Block, Array], Block]
    """of_block(distances [b, M], block, quantile) -> the block with those positives only."""
    of_slots: Callable[[Rows, Array, Metric], Which] | None = None
    """of_slots(rows, quantile, metric) -> which slots of the sorted rows hold them; None: not for sorted rows."""
    prepare: Prepare | None = None
    """What is computed before the blocks: see `comparison.mean`."""


class Negatives(NamedTuple):
    """Which negatives are mined for an anchor and a positive."""

    of_block: Callable[[Formula, Array, Block, Options], Terms]
    """of_block(formula, distances [b, M], block, options) -> sums over the positives of the block with them."""
    window: windows.Window | None = None
    """At which distances they are, as the sorted form needs it; None: not for sorted rows."""
    drawn: bool = False
    """Whether they are drawn at random, which takes a key."""


class Mining(NamedTuple):
    """A way of mining."""

    positives: Positives
    negatives: Negatives

    @property
    def has_sorted_form(self) -> bool:
        """Whether there is a sorted form."""
        return self.positives.of_slots is not None and self.negatives.window is not None


def _inside(window: windows.Window) -> Negatives:
    return Negatives(partial(sweep.terms, window), window)


EVERY_POSITIVE = Positives(positives.every, positives.every_slot)
NEAREST_POSITIVE = Positives(positives.nearest, positives.nearest_slot)
FARTHEST_POSITIVE = Positives(positives.farthest)
WITHIN_QUANTILE = Positives(positives.within_quantile, positives.slots_within_quantile)
WITHIN_CLASS_QUANTILE = Positives(
    positives.within_class_quantile, positives.slots_within_class_quantile, positives.class_quantile
)

EVERY_NEGATIVE = _inside(windows.anywhere)
SEMI_HARD_NEGATIVES = _inside(windows.semi_hard)
NEGATIVES_NEARER_THAN_POSITIVE = _inside(windows.nearer_than_positive)
NEAREST_SEMI_HARD_NEGATIVE = Negatives(negatives.nearest_semi_hard)
NEAREST_NEGATIVE = Negatives(negatives.nearest)
DRAWN_NEGATIVE = Negatives(negatives.drawn, drawn=True)

MINING: dict[str, Mining] = {
    "all": Mining(EVERY_POSITIVE, EVERY_NEGATIVE),
    "semi_hard": Mining(EVERY_POSITIVE, SEMI_HARD_NEGATIVES),
    "original_semi_hard": Mining(EVERY_POSITIVE, NEGATIVES_NEARER_THAN_POSITIVE),
    "nearest_semi_hard": Mining(EVERY_POSITIVE, NEAREST_SEMI_HARD_NEGATIVE),
    "hardest": Mining(EVERY_POSITIVE, NEAREST_NEGATIVE),
    "batch_hard": Mining(FARTHEST_POSITIVE, NEAREST_NEGATIVE),
    "local": Mining(WITHIN_QUANTILE, EVERY_NEGATIVE),
    "local_class": Mining(WITHIN_CLASS_QUANTILE, EVERY_NEGATIVE),
    "easy_positive": Mining(NEAREST_POSITIVE, EVERY_NEGATIVE),
    "distance_weighted": Mining(EVERY_POSITIVE, DRAWN_NEGATIVE),
}
"""All ways of mining of `jaxml.losses.triplet`, which documents them."""
