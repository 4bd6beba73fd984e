"""What LiteLLM has to be told."""

from __future__ import annotations

import re
from pathlib import Path

from optictl.box import Box, CannotTell
from optictl.checking import Finding, check, fail, ok, skipped, warn
from proxy.errors import ConfigError
from proxy.located import parse

#: Each line, and the oldest LiteLLM that was seen to heed it.
_WANTED = {"cancel_on_disconnect": (1, 106, 2)}


@check(group="gateway", pace="fast")
def gateway_settings(box: Box) -> Finding:
    """LiteLLM's configuration has the general_settings that the proxy relies on.

    `cancel_on_disconnect: true`: LiteLLM hangs up on the proxy when its own client has left, so
    that nobody is paid for an answer that nobody reads. Without it only streams that have begun
    are given up.
    """
    gateway = box.machine.site.gateway
    if gateway is None:
        return skipped("the site names no gateway")
    if gateway.router is None:
        return skipped("gateway.router does not say where LiteLLM's configuration is")
    path = Path(gateway.router)
    file = box.machine.system.read(path)
    if file is None:
        return fail(f"{path} does not exist", f"mend gateway.router in {box.machine.loaded.path}")
    document = parse(file.content.decode(errors="replace"), path)
    settings = document.value.get("general_settings")
    settings = settings if isinstance(settings, dict) else None
    lacking = [name for name in _WANTED if (settings or {}).get(name) is not True]
    if not lacking:
        return ok(f"{', '.join(_WANTED)}: set")
    lines = "\n".join(f"  {name}: true" for name in lacking)
    if settings is None:
        fix = f"add to {path}:\ngeneral_settings:\n{lines}"
    else:
        line = document.key(("general_settings",)).line
        fix = f"add to {path}, under general_settings (line {line}):\n{lines}"
    return warn(f"{path} lacks {', '.join(lacking)}{_too_old(box, lacking)}", fix)


def _too_old(box: Box, lacking: list[str]) -> str:
    """That the LiteLLM which runs may not know a setting."""
    try:
        version = box.litellm_version
    except (CannotTell, ConfigError):
        return ""
    numbers = tuple(map(int, re.findall(r"\d+", version or "")))[:3]
    if not numbers or all(numbers >= _WANTED[name] for name in lacking):
        return ""
    return f"; LiteLLM {version} may be too old for it, 1.106.2 is not"
