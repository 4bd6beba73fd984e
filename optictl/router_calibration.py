"""Finds out, and writes down for the service, whether its classifier may compute in int8."""

from __future__ import annotations

import os
from collections.abc import Callable

from optictl.errors import CannotWrite, FetchFailed
from optictl.router_place import Place
from proxy.router import model
from proxy.router.calibration import Calibration, remember
from proxy.router.checkpoint import lacks
from proxy.router.config import Unusable


def calibrated(place: Place, tell: Callable[[str], None]) -> Calibration:
    """What was found, which lies beside the weights now; ``tell`` hears how far it is.

    Raises `FetchFailed` where there is no classifier that torch can load, and `CannotWrite`.
    """
    if lacking := lacks():
        raise FetchFailed(lacking)
    # Read by torch, which is imported when a classifier is loaded and by nothing else here.
    os.environ.update(model.ENVIRONMENT)
    try:
        checkpoint = place.checkpoint()
        if not os.access(checkpoint.folder, os.W_OK, effective_ids=True):
            raise CannotWrite(f"{checkpoint.folder} is not yours to write; run it with sudo")
        found = model.calibrate(checkpoint, len(os.sched_getaffinity(0)), tell)
    except Unusable as unusable:
        raise FetchFailed(str(unusable)) from None
    try:
        remember(checkpoint, found)
    except OSError as error:
        raise CannotWrite(f"cannot write into {checkpoint.folder}: {error.strerror}") from None
    used = "the service uses it" if found.better else "the service does without"
    tell(f"{found}: {used}")
    return found
