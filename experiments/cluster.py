"""Finds clusters in a folder of unlabelled pictures: the same as `jaxml cluster`."""

from jaxml.commands import run

if __name__ == "__main__":
    run("cluster")
