"""`python -m jaxml` is the command `jaxml`."""

from jaxml.commands import main

main()
