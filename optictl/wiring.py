"""What LiteLLM has to know of our ensembles: our parts of its files, for those that are on.

Which are on stands nowhere but in our block of LiteLLM's ``router.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from optictl.artifact import Artifact
from optictl.blocks import block_lines, with_block, without_block
from optictl.errors import CannotRead, UsageError
from optictl.handles import row, with_handles
from optictl.litellm_entries import Surroundings, Version, entries, env_lines, variable
from optictl.site import Gateway, Site
from optictl.system import Found, System
from proxy.ensembles import Ensemble
from proxy.settings import Secret

#: What LiteLLM sends where the proxy asks for no key; its client needs one.
_NO_KEY = "none"
#: A setting of our entries that is there for newer LiteLLMs only, and the oldest of them.
_TELLS_VERSION = ("keepalive_seconds:", (1, 106, 2))


def wired(system: System, site: Site) -> tuple[str, ...]:
    """The handles that LiteLLM has of us, in its order. Raises `ConfigError` for broken markers."""
    router = None if site.gateway is None else site.gateway.router
    found = None if router is None else system.read(Path(router))
    if router is None or found is None:
        return ()
    return tuple(each["model_name"] for each in _ours(found.content, Path(router)))


def selectors(ensembles: Sequence[Ensemble]) -> dict[str, str]:
    """What LiteLLM asks us for, by handle: ``moa-opt-code-balanced-l``."""
    return {each.name: f"{each.approach}-{each.name}" for each in ensembles}


def alias_lines(ensembles: Sequence[Ensemble]) -> dict[str, str]:
    """The variables by which the proxy knows a handle as its selector."""
    return {
        f"{variable(handle)}_MODEL": selector for handle, selector in selectors(ensembles).items()
    }


def parts(
    system: System,
    site: Site,
    ensembles: Sequence[Ensemble],
    *,
    url: str,
    key: Secret | None,
    version: Version | None = None,
) -> Iterator[Artifact]:
    """LiteLLM's files with ``ensembles`` as our part of them; nothing where there are none.

    ``url`` is the proxy's, with /v1. ``version`` is LiteLLM's; None: as it was when our entries
    were written. Raises `UsageError` for a site that does not name the files, `CannotRead` for one
    that is not there, and `ConfigError` with FILE:LINE for one that cannot take our part.
    """
    if not ensembles:
        return
    gateway = _gateway(site)
    router, variables = Path(str(gateway.router)), Path(str(gateway.env_file))
    found = _found(system, router)
    lines = block_lines(found.content, router) or ()
    if version is None and any(_TELLS_VERSION[0] in line for line in lines):
        version = _TELLS_VERSION[1]
    around = Surroundings(site.proxy.request_timeout, version, _theirs(found.content, router))
    content = with_block(found.content, entries(ensembles, around), router, where="router")
    yield Artifact(router, content, found.mode, effect="gateway", shared="router")
    found = _found(system, variables)
    assigned = env_lines(selectors(ensembles), url, _NO_KEY if key is None else key.reveal())
    content = with_block(found.content, assigned, variables, where="env")
    yield Artifact(variables, content, found.mode, sensitive=True, effect="gateway", shared="env")
    if gateway.handles is not None:
        handles = Path(gateway.handles)
        found = _found(system, handles)
        content = with_handles(found.content, [_row(each) for each in ensembles], handles)
        yield Artifact(handles, content, found.mode, effect="none", shared="handles")


def _gateway(site: Site) -> Gateway:
    gateway = site.gateway
    if gateway is None or gateway.router is None or gateway.env_file is None:
        raise UsageError(
            "the site does not say where LiteLLM's files are: give gateway.router and "
            "gateway.env_file in optictl.yaml"
        )
    if gateway.mode == "include":
        raise UsageError("gateway.mode: include is not built yet; set it to block")
    return gateway


def _found(system: System, path: Path) -> Found:
    found = system.read(path)
    if found is None:
        raise CannotRead(f"cannot read {path}: it does not exist; the site names it")
    return found


def _row(ensemble: Ensemble) -> Mapping[str, Any]:
    return row(ensemble.name, ensemble.purpose)


def _ours(content: bytes, path: Path) -> list[dict[str, Any]]:
    return yaml.safe_load("\n".join(block_lines(content, path) or ())) or []


def _theirs(content: bytes, path: Path) -> list[Any]:
    """The entries of others: `with_block` refuses what is no such file, with its place."""
    try:
        parsed = yaml.safe_load(without_block(content, path))
    except (yaml.YAMLError, ValueError):
        return []
    listed = parsed.get("model_list") if isinstance(parsed, dict) else None
    return listed if isinstance(listed, list) else []
