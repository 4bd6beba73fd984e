"""Where the ``optictl`` is that units call."""

from __future__ import annotations

import sys
from pathlib import Path

#: Beside the environments of `optictl.upgrade`: leads to the one in use.
LINK = "optictl-current"


def linked() -> Path | None:
    """The link that leads to the environment this runs in, if there is one."""
    environment = Path(sys.prefix)
    link = environment.parent / LINK
    return link if link.is_symlink() and link.resolve() == environment.resolve() else None


def program_path() -> Path:
    """By the link where there is one, so that an upgrade changes no unit."""
    link = linked()
    return (Path(sys.executable).parent if link is None else link / "bin") / "optictl"
