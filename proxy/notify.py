"""What systemd is told: sd_notify(3) without its library."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

_log = logging.getLogger("optillm.server")

#: Seconds between two lines about the state: each is a message to PID 1.
_EVERY = 1.0


class Notifier:
    """One datagram a message to ``address``; nothing where that is None: no systemd is there."""

    def __init__(self, address: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._clock = clock
        self._status = ""
        self._said_at = 0.0

    def ready(self, status: str) -> None:
        self._say(f"READY=1\nSTATUS={status}", status)

    def reloading(self) -> None:
        """To be followed by READY=1. ``Type=notify-reload`` wants the time, in microseconds."""
        self.send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, status: str) -> None:
        """Say so where it is news, and not twice within a second: call it again later."""
        if status != self._status and self._clock() - self._said_at >= _EVERY:
            self._say(f"STATUS={status}", status)

    def send(self, state: str) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            try:
                channel.sendto(state.encode(), address)
            except OSError as error:
                _log.warning("cannot notify systemd: %s", error)

    def _say(self, state: str, status: str) -> None:
        self._status, self._said_at = status, self._clock()
        self.send(state)
