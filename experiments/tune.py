"""Tunes a preset: the same as `jaxml tune`."""

from jaxml.commands import run

if __name__ == "__main__":
    run("tune")
