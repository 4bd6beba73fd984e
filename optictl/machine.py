"""One site on one machine: what is declared, and the ports to its disk and its systemd."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from optictl import systemd
from optictl.apply import observe
from optictl.artifact import Artifact
from optictl.desired import desired, home_of
from optictl.ensemble_registry import registry_of, wanted
from optictl.key_places import read_key
from optictl.litellm_entries import Version
from optictl.places import Places
from optictl.plan import Plan, plan
from optictl.render import reached_at
from optictl.routing import STRAIGHT, Route
from optictl.routing_site import routed, site_route
from optictl.site import Site
from optictl.site_loading import Loaded
from optictl.state import Records, State
from optictl.system import System
from optictl.systemd import Manager, Run
from optictl.wiring import alias_lines, parts, wired
from proxy.ensembles import Ensemble
from proxy.settings import Secret

#: Restarts LiteLLM and waits for it; hears each step.
RestartGateway = Callable[[Callable[[str], None]], None]


class _Reached(TypedDict):
    """What LiteLLM calls the service with."""

    url: str
    key: Secret | None


class Machine:
    """What every command of the operator works on.

    ``manager`` is None in a staging tree, which no systemd runs. ``systemd`` is the version to
    render for, asked for where it is None. ``root`` is the staging tree's. ``handles`` are the
    ensembles that LiteLLM shall have of us, where they are others than it has; ``litellm`` is its
    version, where that is known. ``degraded`` is whether the service shall answer every request by
    ``none``, ``routed`` whether LiteLLM's base handles shall go through it, where that is not to
    stay as it is. ``restart_gateway`` takes the place of LiteLLM's own command.
    """

    def __init__(
        self,
        loaded: Loaded,
        system: System,
        manager: Manager | None,
        *,
        systemd: int | None = None,
        root: Path = Path("/"),
        handles: Sequence[str] | None = None,
        litellm: Version | None = None,
        degraded: bool | None = None,
        routed: bool | None = None,
        restart_gateway: RestartGateway | None = None,
    ) -> None:
        self.loaded = loaded
        self.system = system
        self.manager = manager
        self._systemd = systemd
        self._root = root
        self._handles = handles
        self._litellm = litellm
        self._degraded = degraded
        self._routed = routed
        #: Raises `GatewayFailed`.
        self.restart_gateway = restart_gateway or self._restart_gateway

    def anew(self) -> Machine:
        """The same, with nothing remembered."""
        return self._copy()

    def on(
        self, system: System, manager: Manager | None, restart_gateway: RestartGateway | None = None
    ) -> Machine:
        """The same site on other ports."""
        again = restart_gateway or self.restart_gateway
        return self._copy(system=system, manager=manager, restart_gateway=again)

    def wired_as(self, handles: Sequence[str], litellm: Version | None = None) -> Machine:
        """The same, where LiteLLM, of the version ``litellm``, shall have these ensembles of us."""
        return self._copy(handles=tuple(handles), litellm=litellm)

    def degraded_as(self, degraded: bool) -> Machine:
        """The same, where ``none`` shall answer every request, or what a request names."""
        return self._copy(degraded=degraded)

    def routed_as(self, routed: bool) -> Machine:
        """The same, where LiteLLM's base handles shall go through the service, or straight."""
        return self._copy(routed=routed)

    def _copy(self, **changed: Any) -> Machine:
        given: dict[str, Any] = {
            "system": self.system,
            "manager": self.manager,
            "systemd": self._systemd,
            "root": self._root,
            "handles": self._handles,
            "litellm": self._litellm,
            "degraded": self._degraded,
            "routed": self._routed,
            "restart_gateway": self.restart_gateway,
        }
        return Machine(self.loaded, **{**given, **changed})

    @property
    def site(self) -> Site:
        return self.loaded.site

    @property
    def home(self) -> Path:
        """That of the user whom the service runs as."""
        return home_of(self.site)

    @cached_property
    def places(self) -> Places:
        return Places.of(self.site, home=self.home)

    @property
    def records(self) -> Records:
        return self.places.records

    @property
    def service(self) -> str:
        """The service's unit."""
        return self.places.service.name

    @property
    def socket(self) -> str:
        """The socket's unit."""
        return self.places.socket.name

    @cached_property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Every file of the site, and our parts of LiteLLM's.

        Raises as `optictl.desired.desired`, `optictl.wiring.parts` and
        `optictl.routing_site.site_route` do.
        """
        site, on = self.site, self.ensembles
        made = desired(
            site,
            systemd=self._systemd,
            root=self._root,
            aliases=alias_lines(on),
            model_map=self.route.model_map,
            degraded=self.degraded,
        )
        return (
            *made.artifacts,
            *parts(self.system, site, on, self.route, **self._reached, version=self._litellm),
        )

    @cached_property
    def route(self) -> Route:
        """How LiteLLM's base handles go through the service; raises as `site_route` does."""
        return site_route(self, **self._reached) if self.routed else STRAIGHT

    @cached_property
    def routed(self) -> bool:
        """Whether LiteLLM's base handles go through the service, or shall."""
        if self._routed is not None:
            return self._routed
        mode = self.site.routing.mode
        return routed(self) if mode is None else mode == "on"

    @cached_property
    def degraded(self) -> bool:
        """Whether every request is answered by ``none``, or shall be."""
        if self._degraded is not None:
            return self._degraded
        return self.system.read(self.places.degraded) is not None

    @cached_property
    def handles(self) -> tuple[str, ...]:
        """The ensembles that LiteLLM has of us, or shall have."""
        return wired(self.system, self.site) if self._handles is None else tuple(self._handles)

    @cached_property
    def ensembles(self) -> tuple[Ensemble, ...]:
        """The same with their members. Raises `UsageError` for what the site cannot have."""
        if not self.handles:
            return ()
        rows = registry_of(self.site, self.places, self._root)
        return tuple(wanted(rows, name) for name in self.handles)

    def plan(self, *, force: bool = False) -> Plan:
        """From what is on disk now to what is declared."""
        return self._plan(self.artifacts, force)

    def removal(self, *, force: bool = False) -> Plan:
        """From what is on disk now to nothing of ours."""
        return self._plan((), force)

    def exposure(self, run: Run = systemd.run) -> float:
        """What systemd thinks of the rendered service: from 0 (closed) to 10 (open)."""
        path = self.places.service
        [unit] = [each for each in self.artifacts if each.path == path]
        with tempfile.TemporaryDirectory(prefix="optictl-") as folder:
            # Under its own name: systemd-analyze goes by that.
            file = Path(folder, path.name)
            file.write_bytes(unit.content)
            return systemd.exposure(file, run)

    def exposure_after(self, plan: Plan) -> float | None:
        """The same where ``plan`` writes that unit, and a systemd runs it that could confine it."""
        written = any(change.path == self.places.service for change in plan.pending)
        confined = self.manager is not None and self.manager.scope == "system"
        return self.exposure() if written and confined else None

    @cached_property
    def _reached(self) -> _Reached:
        key = None
        if self.site.proxy.key is not None and (self.handles or self.routed):
            key = read_key(self.site.proxy.key, self._root)
        return {"url": f"{reached_at(self.site.proxy)}/v1", "key": key}

    def _restart_gateway(self, tell: Callable[[str], None]) -> None:
        # Imported here: only this needs an HTTP client.
        from optictl.gateway_service import restart_gateway

        if self.site.gateway is not None:
            restart_gateway(self.site.gateway, tell)

    def _plan(self, artifacts: tuple[Artifact, ...], force: bool) -> Plan:
        state = State.load(self.system, self.records)
        actual = observe(self.system, artifacts, state)
        return plan(artifacts, actual, state, service=self.service, socket=self.socket, force=force)
