"""One site on one machine: what is declared, and the ports to its disk and its systemd."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path

from optictl import systemd
from optictl.apply import observe
from optictl.artifact import Artifact
from optictl.desired import desired, home_of
from optictl.places import Places
from optictl.plan import Plan, plan
from optictl.site import Site
from optictl.site_loading import Loaded
from optictl.state import Records, State
from optictl.system import System
from optictl.systemd import Manager, Run


class Machine:
    """What every command of the operator works on.

    ``manager`` is None in a staging tree, which no systemd runs. ``systemd`` is the version to
    render for, asked for where it is None. ``root`` is the staging tree's.
    """

    def __init__(
        self,
        loaded: Loaded,
        system: System,
        manager: Manager | None,
        *,
        systemd: int | None = None,
        root: Path = Path("/"),
    ) -> None:
        self.loaded = loaded
        self.system = system
        self.manager = manager
        self._systemd = systemd
        self._root = root

    def anew(self) -> Machine:
        """The same, with nothing remembered."""
        return self.on(self.system, self.manager)

    def on(self, system: System, manager: Manager | None) -> Machine:
        """The same site on other ports."""
        return Machine(self.loaded, system, manager, systemd=self._systemd, root=self._root)

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
        """Every file of the site. Raises as `optictl.desired.desired` does."""
        return desired(self.site, systemd=self._systemd, root=self._root).artifacts

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

    def _plan(self, artifacts: tuple[Artifact, ...], force: bool) -> Plan:
        state = State.load(self.system, self.records)
        actual = observe(self.system, artifacts, state)
        return plan(artifacts, actual, state, service=self.service, socket=self.socket, force=force)
