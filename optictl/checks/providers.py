"""Where the service's calls may go."""

from __future__ import annotations

from typing import Any

from optictl.box import Box, shown
from optictl.checking import Finding, check, fail, ok, warn
from optictl.errors import CannotRead
from optictl.system import Found
from proxy.located import parse


@check(group="upstream", pace="fast")
def providers(box: Box) -> Finding:
    """Every provider on disk is the site's upstream: no call can go anywhere else.

    A file at ~/.optillm/proxy_config.yaml, where OptiLLM looks for one, is not read by the service.
    """
    machine = box.machine
    path, upstream = machine.places.proxy_config, machine.site.upstream.base_url
    file = machine.system.read(path)
    if file is None:
        return fail(f"{path} does not exist", box.optictl("install"))
    document = parse(file.content.decode(errors="replace"), path)
    listed = document.value.get("providers")
    for index, provider in enumerate(listed if isinstance(listed, list) else []):
        goes_to = _base_url(provider)
        if goes_to.rstrip("/") != upstream:
            line = document.place(("providers", index, "base_url")).line
            where = shown(goes_to) or "nowhere"
            said = f"{path}:{line}: a provider leads to {where}, not to {shown(upstream)}"
            return fail(said, box.optictl("plan"))
    old = machine.home / ".optillm/proxy_config.yaml"
    if _found(box, old):
        return warn(
            f"{old} is there, and is not what the service reads: that is {path}",
            f"take over what you need of it, then move it away: mv {old} {old}.old",
        )
    return ok(f"every provider is {shown(upstream)}")


def _base_url(provider: Any) -> str:
    return str(provider.get("base_url", "")) if isinstance(provider, dict) else ""


def _found(box: Box, path: Any) -> Found | None:
    try:
        return box.machine.system.read(path)
    except CannotRead:
        return None  # of the user's home only the user need see anything
