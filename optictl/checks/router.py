"""The classifier that the approach ``router`` asks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from optictl.box import Box, CannotTell, NoAnswer, said_json
from optictl.checking import Finding, check, fail, ok, skipped, warn
from optictl.render import HIDDEN
from optictl.router_place import Place, of_site
from optictl.router_words import parted, routes
from proxy.ensembles_file import loads
from proxy.router.calibration import outdated, remembered, tried
from proxy.router.checkpoint import Checkpoint, lacks
from proxy.router.config import NO_COMPILER, Unusable
from proxy.router.tokenise import Tokeniser

_FASTER = "it is a quarter faster with one: apt-get install gcc libc6-dev"
_SMALLER = "the router goes by words and its small model"


@check(group="proxy", pace="fast", network=True)
def router(box: Box) -> Finding:
    """Where requests are routed, the service has its classifier.

    Without it the router goes by the words of a request and by its small model, which is worse and
    no fault: a warning, as it is where the service finds it too slow. A classifier that is there
    and cannot be used is a fault, also where the unit forbids what torch does, which needs
    `service.profile: torch`, or hides the folder from the service, as it does with homes; and so is
    one that has crashed or hangs. The tensors are held against the known layout, and the tokenizer
    is read. The check is skipped where no request is routed by the site or an ensemble, and there
    is no classifier. What a calibration has found and an upgrade of torch has made void is a
    warning.
    """
    if "--no-router" in box.machine.site.proxy.flags:
        return skipped("the service has been told to load none (--no-router)")
    place = of_site(box.machine.site, box.machine.home)
    broken, lacking = _complaint(place.checkpoint), lacks()
    if not broken and not lacking:
        broken = _complaint(partial(Tokeniser, place.checkpoint().tokenizer))
    if broken and not _used(box):
        return skipped("nothing is routed, and there is no classifier")
    if lacking:
        saw, mend = parted(lacking)
        return warn(f"{saw}: {_SMALLER}", mend)
    said = _said(box)
    if said.get("router") != "ready" and (mend := _out_of_homes(box, place)):
        path = place.folder or place.repository
        return fail(f"the unit hides {path} from the service (ProtectHome=): {_SMALLER}", mend)
    if broken:
        there = place.folder is not None or (place.repository / "refs" / "main").exists()
        saw = f"{parted(broken)[0]}: {_SMALLER}"
        return (fail if there else warn)(saw, _anew(box, place))
    if box.machine.site.service.profile == "strict":
        saw = "torch computes in memory that it writes code to, which service.profile strict denies"
        path = box.machine.loaded.path
        return fail(saw, f"set service.profile: torch in {path}, then: {box.optictl('install')}")
    if not said:
        return skipped("the service does not answer: see the check ready")
    # What torch complains of has many lines.
    checkpoint, why = place.checkpoint(), " ".join(str(said.get("router_why") or "").split())
    match said.get("router"):
        case "ready" if outdated(checkpoint):
            saw = "what was found of int8 is of another torch, CPU or checkpoint: it is not used"
            return warn(f"the classifier is ready: {why}; {saw}", box.optictl("router calibrate"))
        case "ready" if not (why.startswith("int8") or tried(checkpoint)):
            saw = "nobody has tried whether int8 does as well, in half of the memory"
            return ok(f"the classifier is ready: {why}; {saw}: {box.optictl('router calibrate')}")
        case "ready" if NO_COMPILER in why:
            saw = f"the classifier is ready: {why}; {_FASTER}"
            return ok(f"{saw}, then {box.optictl('restart')}")
        case "ready" if not (why.startswith("int8") or _compiled(checkpoint)):
            saw = f"the classifier is ready: {why}; int8 was tried without a C compiler: {_FASTER}"
            return ok(f"{saw}, then {box.optictl('router calibrate')}")
        case "ready":
            return ok(f"the classifier is ready: {why}")
        case "loading" if not why:
            return warn("the classifier is loading", f"wait, or see: {box.optictl('logs')}")
        case "loading":
            return fail(why, box.optictl("logs"))
        case _:
            return _absent(box, place, checkpoint, why)


def _compiled(checkpoint: Checkpoint) -> bool:
    """Whether int8 was tried with a compiler, or nobody knows."""
    known = remembered(checkpoint)
    return known is None or known.compiled


def _absent(box: Box, place: Place, checkpoint: Checkpoint, why: str) -> Finding:
    """What is found where the service has none, and the files here are as they should be."""
    amiss, _ = parted(why)
    if amiss.startswith("too slow"):
        mend = "leave it more of the CPU, or set --no-router; it tries itself again every minute"
        return warn(f"the classifier is {amiss}", mend)
    saw, restart = f"the service has no classifier: {amiss}", box.optictl("restart")
    path = place.folder or place.repository
    if not amiss.removeprefix("cannot read ").startswith((f"{path}/", f"{path}:")):
        return fail(saw, restart)
    if "Permission denied" in amiss:
        user = f"the user {place.user}" if place.user else "the service's user"
        return fail(saw, f"let {user} read {path}, then: {restart}")
    anew = _anew(box, place, checkpoint.weights)
    if amiss.startswith(f"{checkpoint.folder}:"):
        # What torch cannot read now, it cannot read after a restart either.
        return fail(saw, f"{anew}, then: {restart}")
    # A file that was read here too, and is well: most likely mended since the service has read it.
    return fail(saw, f"{restart}; where it says so again: {anew}")


def _used(box: Box) -> bool:
    """Whether the site or an ensemble has requests routed."""
    site = box.machine.site
    if routes(site.proxy.approach):
        return True
    if routes(site.routing.prefix.removesuffix("-")) and box.machine.routed:
        return True
    path = box.machine.places.ensembles
    file = box.machine.system.read(path)
    content = "" if file is None else file.content.decode(errors="replace")
    return any(map(routes, (each.approach for each in loads(content, path, single=True).values())))


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


def _anew(box: Box, place: Place, damaged: Path | None = None) -> str:
    """The mend of a checkpoint; ``damaged`` is a file in which a fetch would see nothing amiss."""
    if place.folder is not None:
        return f"put the checkpoint into {place.folder}, or drop --router-model"
    removed = "" if damaged is None else f"rm {shlex.quote(str(damaged))}, then: "
    return removed + box.optictl("router fetch")


def _complaint(look: Callable[[], object]) -> str:
    """Why the classifier cannot be used; raises `CannotTell` where another user's is hidden."""
    try:
        look()
    except Unusable as unusable:
        if isinstance(unusable.__context__, PermissionError):
            raise CannotTell(str(unusable)) from None
        return str(unusable)
    return ""
