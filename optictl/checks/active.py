"""Whether it runs."""

from __future__ import annotations

from optictl.box import Box, CannotTell
from optictl.checking import Finding, check, fail, ok, warn


@check(group="service", pace="fast")
def active(box: Box) -> Finding:
    """The service runs, and the socket holds its port.

    `optictl logs` says why a service has ended. Without the socket the service works, but a restart
    refuses whoever connects meanwhile.
    """
    manager = box.manager
    try:
        service, socket = box.service, box.socket
    except CannotTell as error:
        return fail(str(error), "systemctl status")
    if not service.known:
        return fail(f"systemd has no {service.name}", box.optictl("install"))

    def start() -> str:
        manager.reset_failed(service.name, socket.name)
        manager.start(socket.name, service.name)
        return f"started {service.name}"

    if not service.running:
        said = f"{service.name} is {service.active} ({service.result})"
        words = "logs" if service.active == "failed" else "start"
        return fail(said, box.optictl(words), start)
    if not socket.running:
        said = f"{socket.name} is {socket.active}: a restart would refuse connections"
        # The port is the service's own until it ends.
        return warn(said, box.optictl("restart"))
    since = f" since {service.since}" if service.since else ""
    told = f": {service.status_text}" if service.status_text else ""
    return ok(f"active{since}, pid {service.main_pid}{told}")
