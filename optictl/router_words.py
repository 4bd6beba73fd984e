"""What is said of the router: by an approach that asks it, by a service that has no classifier."""

from __future__ import annotations

import re

_NAMES = ("router", "auto")
#: How `proxy.router` words what to do, behind what is amiss.
_MEND = re.compile(r"(?P<amiss>.*); (?:run: (?P<command>.+)|(?P<words>fetch it again))")


def routes(approach: str) -> bool:
    """Whether a part of ``approach`` asks the router: ``re2&router``, ``auto``."""
    return any(part in _NAMES for part in approach.replace("|", "&").split("&"))


def parted(why: str) -> tuple[str, str]:
    """What is amiss, and the mend that ``why`` names itself; empty where it names none."""
    said = _MEND.fullmatch(why)
    return (why, "") if said is None else (said["amiss"], said["command"] or said["words"])
