"""How the base handles of a site's LiteLLM go through the proxy: from what is on its disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from optictl.blocks import without_block
from optictl.errors import UsageError
from optictl.gateway_config import Config
from optictl.gateway_site import reading, site_config
from optictl.own_host import this_host
from optictl.routing import INTERNAL, Route, base_handles, is_on, route, said_by_others
from optictl.wiring import MODELS, with_files
from proxy.errors import ConfigError
from proxy.settings import Secret

if TYPE_CHECKING:
    from optictl.machine import Machine

#: How a registry of handles calls a chat model.
_CHAT = "openai-chat"


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether base handles go through us, and what the operator's other tool says of it."""

    on: bool
    handles: tuple[str, ...]
    #: The internal entries that the operator has written himself.
    theirs: frozenset[str]
    #: MLX_ROUTE_VIA_OPTILLM; None where it is not set.
    others: bool | None

    @property
    def disagrees(self) -> str:
        """In what way the other tool says otherwise; '' where it does not."""
        if self.others is None or self.others == self.on:
            return ""
        said, does = ("on", "straight to their backends") if self.others else ("off", "through us")
        return f"MLX_ROUTE_VIA_OPTILLM says {said}, and base handles go {does}"

    def as_json(self) -> dict[str, Any]:
        return {
            "on": self.on,
            "handles": [
                {
                    "handle": name,
                    "internal": f"{INTERNAL}{name}",
                    "internal_is": "theirs" if f"{INTERNAL}{name}" in self.theirs else "ours",
                }
                for name in self.handles
            ],
            "mlx_route_via_optillm": self.others,
            "disagrees": self.disagrees,
        }


def routed(machine: Machine) -> bool:
    """Whether LiteLLM's variables say so now. Raises `ConfigError` for broken markers."""
    gateway = machine.site.gateway
    if gateway is None or gateway.env_file is None:
        return False
    path = Path(gateway.env_file)
    found = machine.system.read(path)
    return is_on(None if found is None else found.content, path)


def site_route(machine: Machine, url: str, key: Secret | None) -> Route:
    """What routing asks of the files, with the proxy at ``url`` that asks for ``key``.

    Raises `UsageError` where the site does not name LiteLLM's files, and `ConfigError` as
    `optictl.routing.route` does, or where there is nothing to route.
    """
    gateway = with_files(machine.site)
    config = _theirs(machine)
    names = _names(machine, config)
    if not names:
        raise ConfigError(
            f"{gateway.router}: no base handle to send through us; name some under routing.handles"
        )
    return route(
        config,
        names,
        routing=machine.site.routing,
        url=url,
        key=key,
        env_file=Path(str(gateway.env_file)),
    )


def standing(machine: Machine) -> Standing:
    """How it is now, whatever is declared. Raises as `site_route` does."""
    with_files(machine.site)
    config = _theirs(machine)
    return Standing(
        on=routed(machine),
        handles=_names(machine, config),
        theirs=frozenset(entry.name for entry in config.entries),
        others=said_by_others(config.variables),
    )


def _theirs(machine: Machine) -> Config:
    """LiteLLM's configuration as it is without us."""
    gateway = with_files(machine.site)
    read = reading(machine)
    router, variables = Path(str(gateway.router)), Path(str(gateway.env_file))

    def without(path: Path) -> bytes | None:
        content = read(path)
        if content is None or path not in (router, variables, router.with_name(MODELS)):
            return content
        # What stands in a file of our own is ours.
        return without_block(content, path) if path in (router, variables) else b"{}"

    config = site_config(machine, without)
    if config is None:
        raise UsageError("gateway.router does not say where LiteLLM's configuration is")
    return config


def _names(machine: Machine, config: Config) -> tuple[str, ...]:
    site, host = machine.site, this_host()
    return base_handles(
        config,
        site.routing,
        lambda url: host.listens(url, site.proxy.port),
        others=_callables(machine),
    )


def _callables(machine: Machine) -> list[str]:
    """Handles of the registry that are no chat model."""
    gateway = machine.site.gateway
    found = gateway and gateway.handles and machine.system.read(Path(gateway.handles))
    rows = map(_row, found.content.splitlines()) if found else ()
    return [str(row.get("handle")) for row in rows if row.get("invoke", _CHAT) != _CHAT]


def _row(line: bytes) -> Mapping[str, Any]:
    try:
        row = orjson.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
