"""Compares the programs that the compilers for TPU and GPU make with the committed accounts.

make test-compile                     # is a number more than a tenth larger? One program of each kernel and kind
make test-compile COMPILED=compile    # all programs, which takes a quarter of an hour on two cores
.venv-compile/bin/python -m pytest tests/compile -m compile --renew    # write the table again
"""

import importlib.util

import pytest

from tests.compile import table
from tests.compile.programs import PROGRAMS, devices_of

missing = importlib.util.find_spec("libtpu") is None
pytestmark = [
    pytest.mark.compile,
    pytest.mark.skipif(missing, reason="needs the compilers: make test-compile"),
]


@pytest.mark.parametrize(
    "program",
    [pytest.param(p, id=f"{p.target} {p.name}", marks=[pytest.mark.slow] * p.slow) for p in PROGRAMS],
)
def test_account(program, record_property, pytestconfig):
    devices = devices_of(program.target)
    found = table.row(program.lower(devices).compile(), len(devices))
    record_property("account", (program.key, found))
    if pytestconfig.getoption("--renew", default=False):
        return
    known = table.read().get(program.key)
    assert known, f"{program.name} on {program.target} is not in {table.PATH.name}: renew it with --renew"
    worse = table.regressions(program.key, found, known)
    assert not worse, "\n".join([*worse, f"if that is meant, renew {table.PATH.name} with --renew"])
