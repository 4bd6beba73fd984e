#!/usr/bin/env python3
"""Is a registry of handles valid: ``optictl handles validate [FILE]``, for who looks for it here.

It is this Python's optictl, else the one that OPTICTL names, else that of PATH.
"""

import os
import shutil
import sys

ARGUMENTS = ["handles", "validate", *sys.argv[1:]]

try:
    from optictl.cli import main
except ModuleNotFoundError:
    program = shutil.which(os.environ.get("OPTICTL", "optictl"))
    if program is None:
        sys.exit(f"{sys.argv[0]}: optictl is not installed for {sys.executable}, nor in PATH")
    os.execv(program, [program, *ARGUMENTS])

sys.argv[1:] = ARGUMENTS
main()
