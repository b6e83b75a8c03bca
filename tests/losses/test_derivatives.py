"""Which derivatives of a loss there are: the table in docs/losses.md."""

import re
from pathlib import Path

import jax
import pytest

from jaxml import losses
from tests.losses.test_contract import NAMES, batch, parameters

DOCUMENT = Path(__file__).parents[2] / "docs" / "losses.md"
WAYS = {
    "jax.grad": lambda f, x: jax.grad(f)(x),
    "jax.jvp": lambda f, x: jax.jvp(f, (x,), (x,)),
    "jax.jacfwd": lambda f, x: jax.jacfwd(f)(x),
    "jax.hessian": lambda f, x: jax.hessian(f)(x),
}


def works(way, name):
    """Whether a derivative of a loss can be lowered, which is where jax refuses some; nothing is computed."""
    (x, y), p = batch(), parameters(name)
    try:
        jax.jit(lambda x: WAYS[way](lambda x: losses.LOSSES[name](x, y, *p)[0], x)).lower(x)
    except (TypeError, AssertionError, NotImplementedError):
        return False
    return True


@pytest.mark.parametrize("way", WAYS)
def test_the_table_says_which_losses_have_it(way):
    section = DOCUMENT.read_text(encoding="utf-8").split("\n## Derivatives\n")[1].split("\n## ")[0]
    table = dict(re.findall(r"^\| `(.+)` \| (.+) \|$", section, re.M))
    assert table.keys() == WAYS.keys()
    missing = [name for name in NAMES if not works(way, name)]
    some = f"all but {', '.join(f'`{name}`' for name in missing)}"
    assert table[way] == ("all" if not missing else "none" if missing == NAMES else some)
