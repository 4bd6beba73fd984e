"""The one place that runs systemd's programs: systemctl, journalctl, systemd-analyze, sysusers."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, Protocol

from optictl.errors import SystemdFailed, UnitFailed

_log = logging.getLogger("optictl.systemd")

#: Runs a command and gives what it has written to stdout. None: it ends when it ends.
Run = Callable[[Sequence[str]], str]
Scope = Literal["system", "user"]

_JOURNAL = ("journalctl", "--no-pager", "--quiet")
#: A unit's own time limits end the jobs that wait for it.
_ENDLESS = frozenset({"start", "stop", "restart", "reload", "enable", "disable"})
#: Journal lines shown of a unit that did not come up.
LINES = 10

_PROPERTIES = (
    "LoadState,ActiveState,SubState,UnitFileState,Result,MainPID,NRestarts,NeedDaemonReload,"
    "DropInPaths,FragmentPath,StatusText,MemoryCurrent,ActiveEnterTimestamp"
)


@dataclass(frozen=True, slots=True)
class Unit:
    """What systemd knows of a unit, in its own words (org.freedesktop.systemd1(5))."""

    name: str
    #: ``loaded``, ``not-found``, ``bad-setting``, ``masked``, …
    load: str = "not-found"
    #: ``active``, ``inactive``, ``activating``, ``deactivating``, ``reloading``, ``failed``.
    active: str = "inactive"
    sub: str = "dead"
    #: ``enabled``, ``disabled``, …; empty where there is no unit file.
    file_state: str = ""
    result: str = "success"
    main_pid: int = 0
    restarts: int = 0
    need_daemon_reload: bool = False
    drop_ins: tuple[Path, ...] = ()
    fragment: Path | None = None
    status_text: str = ""
    #: Bytes; None where systemd does not count them.
    memory: int | None = None
    #: As systemd writes it, in local time; empty for a unit that never was.
    since: str = ""

    @property
    def known(self) -> bool:
        return self.load != "not-found"

    @property
    def running(self) -> bool:
        return self.active in ("active", "reloading")

    @property
    def enabled(self) -> bool:
        return self.file_state in ("enabled", "enabled-runtime")


class Manager(Protocol):
    """What is asked of systemd. Every failure is a `SystemdFailed` that says what it said."""

    scope: Scope

    def show(self, unit: str) -> Unit: ...

    def daemon_reload(self) -> None: ...

    def enable(self, *units: str) -> None: ...

    def disable(self, *units: str) -> None: ...

    def start(self, *units: str) -> None:
        """Raises `UnitFailed`, as `restart` and `reload` do, with the unit's last log lines."""
        ...

    def stop(self, *units: str) -> None: ...

    def restart(self, *units: str) -> None: ...

    def reload(self, *units: str) -> None: ...

    def reset_failed(self, *units: str) -> None:
        """Forget failures, and with them the start limit. A unit without any is none to forget."""
        ...

    def journal(self, *units: str, lines: int = LINES) -> list[str]:
        """The last lines of the units' log, oldest first."""
        ...

    def journal_command(self, *units: str) -> list[str]:
        """The ``journalctl`` that shows the units' log."""
        ...

    def make_user(self, name: str, home: Path) -> None:
        """Make a system user, unless there is one of that name."""
        ...


class Systemd:
    """The systemd that runs this machine, or the user's own one."""

    def __init__(self, scope: Scope = "system", run: Run | None = None) -> None:
        self.scope: Scope = scope
        self._run = run or _run
        self._of = ("--user",) if scope == "user" else ()

    def show(self, unit: str) -> Unit:
        said = self._systemctl("show", f"--property={_PROPERTIES}", unit)
        return _unit(unit, dict(line.split("=", 1) for line in said.splitlines() if "=" in line))

    def daemon_reload(self) -> None:
        self._systemctl("daemon-reload")

    def enable(self, *units: str) -> None:
        self._systemctl("enable", "--quiet", *units)

    def disable(self, *units: str) -> None:
        self._systemctl("disable", "--quiet", *units)

    def start(self, *units: str) -> None:
        self._up("start", units)

    def stop(self, *units: str) -> None:
        self._systemctl("stop", *units)

    def restart(self, *units: str) -> None:
        self._up("restart", units)

    def reload(self, *units: str) -> None:
        self._up("reload", units)

    def reset_failed(self, *units: str) -> None:
        for unit in units:
            try:
                self._systemctl("reset-failed", unit)
            except SystemdFailed as error:
                # What runs nowhere and has not failed systemd need not have loaded, if it is there.
                if "not loaded" not in str(error):
                    raise

    def journal(self, *units: str, lines: int = LINES) -> list[str]:
        # What systemd forks to listen says why it cannot, and is gone at once: the journal then
        # knows that it was root's, but no longer whose unit's, which --unit insists on.
        own = " + ".join(f"_SYSTEMD_UNIT={unit} + UNIT={unit} _UID=0" for unit in units).split()
        of = own if self.scope == "system" else [*self._of, *_named(units)]
        return self._run([*_JOURNAL, "--lines", str(lines), "--output", "cat", *of]).splitlines()

    def journal_command(self, *units: str) -> list[str]:
        return [*_JOURNAL, *self._of, *_named(units)]

    def make_user(self, name: str, home: Path) -> None:
        self._run(["systemd-sysusers", "--inline", f'u {name} - "optictl proxy" {home}'])

    def _systemctl(self, *words: str) -> str:
        return self._run(["systemctl", *self._of, *words])

    def _up(self, verb: str, units: Sequence[str]) -> None:
        try:
            self._systemctl(verb, *units)
        except SystemdFailed as error:
            raise UnitFailed(f"{error}\n{self._last_words(units)}") from error

    def _last_words(self, units: Sequence[str]) -> str:
        # What was said just now may not have been written yet. Who is not root may not ask for it.
        with suppress(SystemdFailed):
            self._run(["journalctl", "--sync"])
        said = "".join(f"  {line}\n" for line in self.journal(*units)) or "  (its log is empty)\n"
        of = " ".join([*self._of, *(f"-u {unit}" for unit in units)])
        return f"{said}more: journalctl {of} --since -10min"


def _named(units: Iterable[str]) -> list[str]:
    return [word for unit in units for word in ("--unit", unit)]


def _run(command: Sequence[str]) -> str:
    timeout = None if _ENDLESS.intersection(command) else 60.0
    return run(command, timeout=timeout)


def run(command: Sequence[str], *, timeout: float | None = 60.0) -> str:
    """Raises `SystemdFailed` where it is not there, or says that it failed."""
    environ = {**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
    if "--user" in command:
        # Where `sudo -u` or a timer has not set it.
        environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    _log.info("%s", shlex.join(command))
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout, env=environ
        )
    except FileNotFoundError:
        raise SystemdFailed(f"{command[0]} is not on this machine; does it run systemd?") from None
    except subprocess.TimeoutExpired:
        raise SystemdFailed(f"{' '.join(command)} has not ended within {timeout:.0f} s") from None
    if ended.returncode:
        raise SystemdFailed(f"{' '.join(command)}: {ended.stderr.strip() or ended.returncode}")
    return ended.stdout


def become(command: Sequence[str]) -> NoReturn:
    """Go on as ``command``, which never returns. Raises `SystemdFailed` where it is not there."""
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        raise SystemdFailed(f"cannot run {command[0]}: {error.strerror}") from None


def version(run: Run = run) -> int:
    """systemd's major version; raises `SystemdFailed` where there is none."""
    said = run(["systemctl", "--version"])
    found = re.match(r"systemd (\d+)", said)
    if found is None:
        raise SystemdFailed(f"systemctl --version says no version: {said[:100]!r}")
    return int(found[1])


def verify(units: Sequence[Path], scope: Scope, run: Run = run) -> list[str]:
    """What systemd finds wrong with unit files, a line each; they need not be installed."""
    of = ["--user"] if scope == "user" else []
    # Without --recursive-errors it accepts unknown keys and values.
    command = ["systemd-analyze", *of, "verify", "--man=no", "--recursive-errors=one"]
    try:
        run([*command, *map(str, units)])
    except SystemdFailed as error:
        return [line for line in str(error).splitlines() if line]
    return []


def lingers(user: str) -> bool:
    """Whether the user's own systemd runs without a login: ``loginctl enable-linger``."""
    return Path("/var/lib/systemd/linger", user).exists()


def exposure(unit: Path, run: Run = run) -> float:
    """How much of the machine a unit file leaves open, from 0 (nothing) to 10 (all)."""
    said = run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)])
    found = re.search(r"Overall exposure level .*: ([0-9.]+)", said)
    if found is None:
        raise SystemdFailed(f"systemd-analyze security says no level for {unit}")
    return float(found[1])


def _unit(name: str, said: dict[str, str]) -> Unit:
    def number(key: str) -> int:
        value = said.get(key, "")
        return int(value) if value.isdecimal() else 0

    fragment, memory = said.get("FragmentPath", ""), said.get("MemoryCurrent", "")
    return Unit(
        name=name,
        load=said.get("LoadState", "not-found"),
        active=said.get("ActiveState", "inactive"),
        sub=said.get("SubState", "dead"),
        file_state=said.get("UnitFileState", ""),
        result=said.get("Result", "success"),
        main_pid=number("MainPID"),
        restarts=number("NRestarts"),
        need_daemon_reload=said.get("NeedDaemonReload") == "yes",
        drop_ins=tuple(map(Path, said.get("DropInPaths", "").split())),
        fragment=Path(fragment) if fragment else None,
        status_text=said.get("StatusText", ""),
        memory=int(memory) if memory.isdecimal() and len(memory) < 20 else None,
        since=said.get("ActiveEnterTimestamp", ""),
    )
