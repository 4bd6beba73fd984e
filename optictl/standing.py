"""How the service stands: what systemd knows of it, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from optictl.exit_status import Exit
from optictl.lifecycle import installed, manager_of
from optictl.machine import Machine
from optictl.render import reached_at
from optictl.systemd import Unit

#: Seconds for the service to say whether it is ready.
_PATIENCE = 3.0
#: Lines of the log that are shown of a service that has failed.
_LINES = 10
#: What systemd logs at the start limit; the unit's result stays that of the failures before.
_GIVEN_UP = "Start request repeated too quickly"

_RESULTS = {
    "exit-code": "it ended with an error",
    "signal": "it was killed",
    "core-dump": "it crashed",
    "watchdog": "it hung, and systemd ended it",
    "timeout": "it did not answer, or did not stop, in time",
    "resources": "systemd could not give it what its unit asks for",
    "protocol": "it did not tell systemd that it is ready",
    "oom-kill": "the machine ran out of memory",
}


@dataclass(frozen=True, slots=True)
class Health:
    """What ``/health/ready`` says; ``reason`` is why it is not ready."""

    ready: bool
    reason: str = ""
    #: What became of the last reload, where it was refused.
    reload: str = ""
    providers: tuple[dict[str, Any], ...] = ()
    #: Whether every request is answered by ``none``.
    degraded: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "ready": self.ready,
            "reason": self.reason or None,
            "reload": self.reload or None,
            "providers": list(self.providers),
            "degraded": self.degraded,
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """The verdict in one line, and all that it rests on."""

    verdict: str
    exit_code: Exit
    service: Unit
    socket: Unit
    port: int
    #: None of a service that does not run: to ask it would start it.
    health: Health | None = None
    #: The last lines of the log of a service that has failed, and the command that shows more.
    log: tuple[str, ...] = ()
    more: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "health": None if self.health is None else self.health.as_json(),
            "units": [_unit_as_json(unit) for unit in (self.service, self.socket)],
            "port": self.port,
            "log": list(self.log),
        }

    def table(self) -> list[tuple[str, str, str]]:
        """A fact each: its name, how it is with the service, and how with the socket."""

        def of(name: str, tell: Callable[[Unit], str]) -> tuple[str, str, str]:
            return name, tell(self.service) or "-", tell(self.socket) or "-"

        return [
            of("unit", lambda unit: unit.name),
            of("state", lambda unit: f"{unit.active} ({unit.sub})"),
            of("since", lambda unit: unit.since if unit.running else ""),
            of("pid", lambda unit: str(unit.main_pid or "")),
            of("memory", lambda unit: _mebibytes(unit.memory)),
            ("restarts", str(self.service.restarts), "-"),
            ("port", "-", str(self.port)),
            of("enabled", lambda unit: unit.file_state),
            of("drop-ins", lambda unit: ", ".join(map(str, unit.drop_ins)) or "none"),
            of("daemon-reload", lambda unit: "needed" if unit.need_daemon_reload else "no need"),
        ]


def standing(machine: Machine, http: httpx.Client) -> Standing:
    """Raises `UnknownUnit` where the service is not installed, and `SystemdFailed`."""
    service, manager = installed(machine), manager_of(machine)
    socket = manager.show(machine.socket)
    health = _health(reached_at(machine.site.proxy), http) if service.running else None
    log: list[str] = []
    more = ""
    if _has_failed(service):
        log = manager.journal(service.name, socket.name, lines=_LINES)
        more = " ".join([*manager.journal_command(service.name, socket.name), "--since", "-10min"])
    return Standing(
        verdict=f"{machine.places.name} {_verdict(service, socket, health, log)}",
        exit_code=Exit.OK if service.running else Exit.NOT_RUNNING,
        service=service,
        socket=socket,
        port=machine.site.proxy.port,
        health=health,
        log=tuple(log),
        more=more,
    )


def _verdict(service: Unit, socket: Unit, health: Health | None, log: Sequence[str]) -> str:
    if service.load not in ("loaded", "not-found"):
        return f"cannot be used ({service.load}); see: systemctl status {service.name}"
    if health is not None:
        said = service.status_text or "it runs"
        if not health.ready:
            return f"is running, but not ready: {health.reason}"
        return f"is running: ready{', but degraded' if health.degraded else ''}; {said}"
    match service.active:
        case "failed":
            why = _RESULTS.get(service.result, service.result)
            if service.result == "start-limit-hit" or any(_GIVEN_UP in line for line in log):
                why += ", again and again, and systemd has given up (start-limit)"
            return f"has failed: {why}; see: optictl logs; mended? optictl start"
        case "activating" if service.sub == "auto-restart":
            why = _RESULTS.get(service.result, service.result)
            return f"is down and about to be started again: {why}; see: optictl logs"
        case "activating" if service.restarts:
            often = f"{service.restarts} time{'' if service.restarts == 1 else 's'}"
            return f"is being started again ({often} by now), not answering yet; see: optictl logs"
        case "activating":
            return "is starting: it has not answered yet; see: optictl logs --follow"
        case "deactivating" if _has_failed(service):
            why = _RESULTS.get(service.result, service.result)
            return f"is going down, to be started again: {why}; see: optictl logs"
        case "deactivating":
            return "is stopping: requests under way finish first"
    if socket.running:
        return "is stopped; the next request starts it, as its socket listens; or: optictl start"
    return "is stopped; start it: optictl start"


def _has_failed(service: Unit) -> bool:
    """Whether it has, or is only up for another try, or on its way down from one."""
    match service.active:
        case "failed":
            return True
        case "activating":
            # systemd counts only what it starts again by itself.
            return service.sub == "auto-restart" or service.restarts > 0
        case "deactivating":
            return service.result not in ("", "success")
    return False


def _health(url: str, http: httpx.Client) -> Health:
    """Anything may listen there, and say anything."""
    try:
        response = http.get(f"{url}/health/ready", timeout=_PATIENCE)
    except httpx.TimeoutException:
        return Health(False, f"no answer within {_PATIENCE:.0f} s at {url}/health/ready")
    except httpx.RequestError as error:
        return Health(False, f"no answer at {url}/health/ready ({error})")
    said = _object(response.content)
    if "status" not in said:
        return Health(False, f"what answers at {url} is no optillm-proxy")
    ready = response.status_code == 200
    providers = said.get("providers")
    return Health(
        ready=ready,
        reason="" if ready else str(said.get("reason") or "it does not say why"),
        reload=str(said.get("reload") or ""),
        providers=tuple(_mappings(providers)) if isinstance(providers, list) else (),
        degraded=said.get("degraded") is True,
    )


def _mappings(values: Sequence[object]) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)]


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f} MiB"


def _unit_as_json(unit: Unit) -> dict[str, Any]:
    return {
        "name": unit.name,
        "state": unit.active,
        "sub": unit.sub,
        "result": unit.result,
        "since": unit.since or None,
        "pid": unit.main_pid or None,
        "memory": unit.memory,
        "restarts": unit.restarts,
        "enabled": unit.enabled,
        "drop_ins": [str(path) for path in unit.drop_ins],
        "need_daemon_reload": unit.need_daemon_reload,
    }
