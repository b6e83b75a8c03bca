"""Trains a run: the same as `jaxml train`."""

from jaxml.commands import run

if __name__ == "__main__":
    run("train")
