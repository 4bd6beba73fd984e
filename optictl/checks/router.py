"""The classifier that the approach ``router`` asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optictl.box import Box, CannotTell, NoAnswer, said_json
from optictl.checking import Finding, check, fail, ok, skipped, warn
from optictl.render import HIDDEN
from optictl.router_place import Place, of_site
from proxy.ensembles_file import loads
from proxy.router.calibration import outdated
from proxy.router.checkpoint import lacks
from proxy.router.config import Unusable

_NAMES = ("router", "auto")
_SMALLER = "the router goes by words and its small model"


@check(group="proxy", pace="fast", network=True)
def router(box: Box) -> Finding:
    """Where requests are routed, the service has its classifier.

    Without it the router goes by the words of a request and by its small model, which is worse and
    no fault: a warning. A classifier that is there and cannot be used is one, also where the unit
    forbids what torch does, which needs `service.profile: torch`, or hides the folder from the
    service, as it does with homes. The check is skipped where no request is routed by the site or
    an ensemble, and there is no classifier. What a calibration has found and an upgrade of torch
    has made void is a warning.
    """
    if "--no-router" in box.machine.site.proxy.flags:
        return skipped("the service has been told to load none (--no-router)")
    place = of_site(box.machine.site, box.machine.home)
    broken = _broken(place)
    if broken is not None and not _used(box):
        return skipped("nothing is routed, and there is no classifier")
    if lacking := lacks():
        saw, _, mend = lacking.partition("; run: ")
        return warn(f"{saw}: {_SMALLER}", mend)
    said = _said(box)
    if said.get("router") != "ready" and (mend := _out_of_homes(box, place)):
        path = place.folder or place.repository
        return fail(f"the unit hides {path} from the service (ProtectHome=): {_SMALLER}", mend)
    if broken is not None:
        saw = f"{broken.partition('; ')[0]}: {_SMALLER}"
        if place.folder is not None:
            return fail(saw, f"put the checkpoint into {place.folder}, or drop --router-model")
        there = (place.repository / "refs" / "main").exists()
        return (fail if there else warn)(saw, box.optictl("router fetch"))
    if box.machine.site.service.profile == "strict":
        saw = "torch computes in memory that it writes code to, which service.profile strict denies"
        path = box.machine.loaded.path
        return fail(saw, f"set service.profile: torch in {path}, then: {box.optictl('install')}")
    if not said:
        return skipped("the service does not answer: see the check ready")
    why = str(said.get("router_why") or "")
    match said.get("router"):
        case "ready" if outdated(place.checkpoint()):
            saw = "what was found of int8 is of another torch, CPU or checkpoint: it is not used"
            return warn(f"the classifier is ready: {why}; {saw}", box.optictl("router calibrate"))
        case "ready":
            return ok(f"the classifier is ready: {why}")
        case "loading" if not why:
            return warn("the classifier is loading", f"wait, or see: {box.optictl('logs')}")
        case "loading":
            return fail(why, box.optictl("logs"))
        case _:
            return fail(f"the service has no classifier: {why}", box.optictl("restart"))


def _used(box: Box) -> bool:
    """Whether the site or an ensemble has requests routed."""
    site = box.machine.site
    if _routes(site.proxy.approach):
        return True
    if _routes(site.routing.prefix.removesuffix("-")) and box.machine.routed:
        return True
    path = box.machine.places.ensembles
    file = box.machine.system.read(path)
    content = "" if file is None else file.content.decode(errors="replace")
    return any(map(_routes, (each.approach for each in loads(content, path, single=True).values())))


def _routes(approach: str) -> bool:
    return any(part in _NAMES for part in approach.replace("|", "&").split("&"))


def _said(box: Box) -> Mapping[str, Any]:
    """What the service says of its readiness; nothing where it does not answer."""
    try:
        return said_json(box.get(f"{box.url}/health/ready"))
    except NoAnswer:
        return {}


def _out_of_homes(box: Box, place: Place) -> str:
    """The mend where the unit hides the classifier's folder; empty where the service sees it."""
    machine = box.machine
    path = place.folder or place.repository
    seen = path.is_relative_to(machine.home / ".cache/huggingface")
    if machine.site.service.scope == "user" or seen or not any(map(path.is_relative_to, HIDDEN)):
        return ""
    elsewhere, site = machine.places.service_state / "router", machine.loaded.path
    if place.folder is None:
        return f"set HF_HOME: {elsewhere} in {site}, then: {box.optictl('router fetch')}"
    return f"copy it to {elsewhere}, name that in {site}, then: {box.optictl('install')}"


def _broken(place: Place) -> str | None:
    """Why the classifier cannot be used. Raises `CannotTell` where another user's is hidden."""
    try:
        place.checkpoint()
    except Unusable as unusable:
        if isinstance(unusable.__context__, PermissionError):
            raise CannotTell(str(unusable)) from None
        return str(unusable)
    return None
