"""Scores a run again: the same as `jaxml evaluate`."""

from jaxml.commands import run

if __name__ == "__main__":
    run("evaluate")
