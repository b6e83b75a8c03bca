"""Plans a run for an accelerator: the same as `jaxml plan`."""

from jaxml.commands import run

if __name__ == "__main__":
    run("plan")
