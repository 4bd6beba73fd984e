"""What LiteLLM has to know of our ensembles: our parts of its files, for those that are on.

Which are on stands nowhere but there: in our block of LiteLLM's ``router.yaml``, or in a file of
ours beside it which that includes (``gateway.mode``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from optictl.artifact import Artifact
from optictl.blocks import BEGIN, END, block_lines, read_yaml, with_block, without_block
from optictl.errors import CannotRead, UsageError
from optictl.handles import row, with_handles
from optictl.litellm_entries import Surroundings, Version, entries, env_lines, variable
from optictl.routing import INTERNAL, STRAIGHT, Route
from optictl.shared_files import models_file
from optictl.site import Gateway, Site
from optictl.system import Found, System
from proxy.ensembles import Ensemble
from proxy.errors import ConfigError
from proxy.settings import Secret

#: Our file, beside ``router.yaml``.
MODELS = "optictl_models.yaml"
#: What LiteLLM sends where the proxy asks for no key; its client needs one.
_NO_KEY = "none"
#: A setting of our entries that is there for newer LiteLLMs only, and the oldest of them.
_TELLS_VERSION = ("keepalive_seconds", (1, 106, 2))


def wired(system: System, site: Site) -> tuple[str, ...]:
    """The handles that LiteLLM has of us, in its order.

    Raises `ConfigError` for broken markers, and for entries of ours that are no YAML.
    """
    router = None if site.gateway is None else site.gateway.router
    ours = () if router is None else _ours(system, Path(router))
    return tuple(dict.fromkeys(each["model_name"] for each in ours))


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
    route: Route = STRAIGHT,
    *,
    url: str,
    key: Secret | None,
    version: Version | None = None,
) -> Iterator[Artifact]:
    """LiteLLM's files with ``ensembles`` and ``route`` as our part of them; else nothing.

    ``url`` is the proxy's, with /v1. ``version`` is LiteLLM's; None: as it was when our entries
    were written. Raises `UsageError` for a site that does not name the files, `CannotRead` for one
    that is not there, and `ConfigError` with FILE:LINE for one that cannot take our part.
    """
    if not ensembles and not route.assigned:
        return
    gateway = with_files(site)
    router, variables = Path(str(gateway.router)), Path(str(gateway.env_file))
    setting, oldest = _TELLS_VERSION
    if version is None and any(
        setting in (each.get("litellm_params") or ()) for each in _ours(system, router)
    ):
        version = oldest
    theirs = _theirs(_found(system, router).content, router, "model_list")
    around = Surroundings(site.proxy.request_timeout, version, theirs)
    router_lines = [*entries(ensembles, around), *route.entries]
    assigned = [
        *env_lines(selectors(ensembles), url, _NO_KEY if key is None else key.reveal()),
        *route.assigned,
    ]
    yield from _models(system, router, router_lines, gateway.mode)
    yield _assignments(system, variables, assigned)
    if gateway.handles is not None:
        handles = Path(gateway.handles)
        found = _found(system, handles)
        content = with_handles(found.content, [_row(each) for each in ensembles], handles)
        yield Artifact(handles, content, found.mode, effect="none", shared="handles")


def _models(
    system: System, router: Path, lines: Sequence[str], mode: Literal["block", "include"]
) -> Iterator[Artifact]:
    """The files with ``lines``, entries of ``model_list``.

    Without a file that is included LiteLLM does not start: it comes first, and so is removed last.
    """
    found = _found(system, router)
    if lines and mode == "include":
        ours = router.with_name(MODELS)
        # A line that they have written themselves stays; so the file that it names has to.
        named = any(
            isinstance(each, str)
            and os.path.normpath(router.parent / each) == os.path.normpath(ours)
            for each in _theirs(found.content, router, "include")
        )
        yield Artifact(
            ours,
            models_file(lines),
            found.mode,
            found.owner,
            found.group,
            effect="gateway",
            shared="models" if named else None,
        )
        lines = [] if named else [f"- {MODELS}"]
    content = with_block(found.content, lines, router, where="router")
    yield Artifact(router, content, found.mode, effect="gateway", shared="router")


def _assignments(system: System, path: Path, lines: Sequence[str]) -> Artifact:
    found = _found(system, path)
    content = with_block(found.content, lines, path, where="env")
    return Artifact(path, content, found.mode, sensitive=True, effect="gateway", shared="env")


def with_files(site: Site) -> Gateway:
    """The site's LiteLLM. Raises `UsageError` where it does not say where its files are."""
    gateway = site.gateway
    if gateway is None or gateway.router is None or gateway.env_file is None:
        raise UsageError(
            "the site does not say where LiteLLM's files are: give gateway.router and "
            "gateway.env_file in optictl.yaml"
        )
    return gateway


def _found(system: System, path: Path) -> Found:
    found = system.read(path)
    if found is None:
        raise CannotRead(f"cannot read {path}: it does not exist; the site names it")
    return found


def _row(ensemble: Ensemble) -> Mapping[str, Any]:
    return row(ensemble.name, ensemble.purpose)


def _ours(system: System, router: Path) -> list[dict[str, Any]]:
    """Our ensembles' entries, in whichever mode they were written."""
    found, beside = system.read(router), system.read(router.with_name(MODELS))
    listed: list[Any] = []
    if found is not None:
        listed += _in_block(found.content, router)
    if beside is not None:
        listed += _listed(read_yaml(beside.content, router.with_name(MODELS)), "model_list")
    return [
        each
        for each in listed
        if isinstance(each, dict)
        and isinstance(each.get("model_name"), str)
        and not each["model_name"].startswith(INTERNAL)
    ]


def _in_block(content: bytes, path: Path) -> list[Any]:
    try:
        found = yaml.safe_load("\n".join(block_lines(content, path) or ()))
    except (yaml.YAMLError, ValueError):
        read_yaml(content, path)  # it says where
        raise ConfigError(
            f"{path}: what stands between '{BEGIN}' and '{END}' is not YAML; remove it"
        ) from None
    return found if isinstance(found, list) else []


def _theirs(content: bytes, path: Path, key: str) -> list[Any]:
    """What others list under ``key``: `with_block` refuses what is no such file, with its place."""
    try:
        return _listed(yaml.safe_load(without_block(content, path)), key)
    except (yaml.YAMLError, ValueError):
        return []


def _listed(parsed: Any, key: str) -> list[Any]:
    listed = parsed.get(key) if isinstance(parsed, dict) else None
    return listed if isinstance(listed, list) else []
