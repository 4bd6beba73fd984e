"""A systemd of one dictionary: what it was asked for, and what its units became of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from optictl.errors import SystemdFailed, UnitFailed
from optictl.systemd import LINES, Scope, Unit


class FakeManager:
    """`optictl.systemd.Manager` without a systemd.

    ``fails`` holds verbs that fail as a unit that does not come up. ``said`` is every unit's log.
    ``on_disk`` makes ``daemon_reload`` know units by their files, as systemd does.
    """

    def __init__(
        self,
        *units: Unit,
        scope: Scope = "system",
        fails: Iterable[str] = (),
        said: Sequence[str] = (),
        on_disk: Path | None = None,
    ) -> None:
        self.scope: Scope = scope
        self.units = {unit.name: unit for unit in units}
        self.fails = set(fails)
        self.said = list(said)
        self.calls: list[tuple[str, ...]] = []
        self._on_disk = on_disk
        self._pid = 1000

    @property
    def changes(self) -> list[tuple[str, ...]]:
        """The calls that ask for more than to be told."""
        return [call for call in self.calls if call[0] not in ("show", "journal")]

    def show(self, unit: str) -> Unit:
        self.calls.append(("show", unit))
        return self.units.get(unit, Unit(unit))

    def daemon_reload(self) -> None:
        self._called("daemon_reload")
        for name, unit in self.units.items():
            self.units[name] = replace(unit, need_daemon_reload=False)
        if self._on_disk is None:
            return
        files = {each.name: each for each in self._on_disk.iterdir() if each.is_file()}
        for name, path in files.items():
            known = self.units.get(name, Unit(name, file_state="disabled"))
            self.units[name] = replace(known, load="loaded", fragment=path)
        for name in set(self.units) - set(files):
            del self.units[name]

    def enable(self, *units: str) -> None:
        self._called("enable", *units)
        for name in units:
            self.units[name] = replace(self._known(name), file_state="enabled")

    def disable(self, *units: str) -> None:
        self._called("disable", *units)
        for name in units:
            self.units[name] = replace(self._known(name), file_state="disabled")

    def start(self, *units: str) -> None:
        self._up("start", units)

    def stop(self, *units: str) -> None:
        self._called("stop", *units)
        for name in units:
            unit = self._known(name)
            self.units[name] = replace(unit, active="inactive", sub="dead", main_pid=0)

    def restart(self, *units: str) -> None:
        self._up("restart", units)

    def reload(self, *units: str) -> None:
        self._called("reload", *units)
        for name in units:
            if not self._known(name).running:
                raise UnitFailed(f"{name} is not active, cannot reload.")

    def reset_failed(self, *units: str) -> None:
        self._called("reset_failed", *units)
        for name in units:
            unit = self.units.get(name)
            if unit is not None and unit.active == "failed":
                self.units[name] = replace(unit, active="inactive", sub="dead", result="success")

    def journal(self, *units: str, lines: int = LINES) -> list[str]:
        self.calls.append(("journal", *units))
        return self.said[-lines:]

    def journal_command(self, *units: str) -> list[str]:
        return ["journalctl", *units]

    def make_user(self, name: str, home: Path) -> None:
        self._called("make_user", name, str(home))

    def _up(self, verb: str, units: Sequence[str]) -> None:
        try:
            self._called(verb, *units)
        except UnitFailed:
            for name in units:
                unit = self._known(name)
                self.units[name] = replace(
                    unit, active="failed", sub="failed", result="exit-code", main_pid=0
                )
            raise
        for name in units:
            unit = self._known(name)
            if unit.running and verb == "start":
                continue
            if name.endswith(".socket"):
                self.units[name] = replace(unit, active="active", sub="listening")
                continue
            self._pid += 1
            self.units[name] = replace(unit, active="active", sub="running", main_pid=self._pid)

    def _called(self, verb: str, *units: str) -> None:
        self.calls.append((verb, *units))
        if verb in self.fails:
            lines = "".join(f"\n  {line}" for line in self.said[-LINES:])
            raise UnitFailed(f"{verb} {' '.join(units)}: it did not come up{lines}")

    def _known(self, name: str) -> Unit:
        unit = self.units.get(name)
        if unit is None or not unit.known:
            raise SystemdFailed(f"Unit {name} not found.")
        return unit
