"""Runs `python -m jaxml.models.weights list | path BACKBONE | inspect FILE | convert FILE`."""

import sys

from jaxml.models.weights.commands import main

try:
    main(sys.argv[1:])
except (OSError, ValueError, ImportError) as error:
    sys.exit(f"error: {error}")
