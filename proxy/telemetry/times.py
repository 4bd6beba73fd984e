"""Times of day as text: what all those of a second share is made once."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from math import floor


def utc(seconds: float, digits: int) -> str:
    """A time since the epoch in ISO 8601 and UTC, cut off after so many ``digits`` of a second."""
    second = floor(seconds)
    return f"{_utc(second)}.{int((seconds - second) * 10**digits):0{digits}}+00:00"


def local(seconds: float) -> str:
    """A time since the epoch as the log has it: to the second, with the zone's offset."""
    return _local(int(seconds))


@lru_cache(maxsize=8)
def _utc(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=8)
def _local(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))
