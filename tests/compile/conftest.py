"""Adds the option `--renew`, which replaces the committed accounts by those found."""

import os

from jaxml.planning.targets import COMPILE_ONLY
from tests.compile import table

for name, value in COMPILE_ONLY.items():
    os.environ.setdefault(name, value)
found = {}


def pytest_addoption(parser):
    parser.addoption("--renew", action="store_true", help="write the accounts found into accounts.csv")


def pytest_runtest_logreport(report):
    # With several workers this runs where all reports arrive.
    for name, (key, row) in report.user_properties if report.when == "call" else ():
        if name == "account":
            found[tuple(key)] = row


def pytest_terminal_summary(terminalreporter, config):
    known = table.read()
    if config.getoption("--renew", default=False):
        table.write({**known, **found})
        terminalreporter.write_line(f"{len(found)} of the accounts in {table.PATH.name} renewed")
        return
    less = [key for key, row in found.items() if key in known and table.regressions(key, known[key], row)]
    if less:
        names = ", ".join(f"{name} on {target}" for target, name in sorted(less))
        terminalreporter.write_line(f"take less than the table says; renew it with --renew: {names}")
