"""Makes a text fit to be shown to strangers: no secrets, no names of machines and people."""

from __future__ import annotations

import getpass
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from optictl.box import Box
from proxy.errors import ConfigError

_HOME = re.compile(r"(?<![\w.-])(?:/home|/Users)/[^/\s:,;'\")]+|(?<![\w./-])/root(?![\w.-])")
_URL_HOST = re.compile(r"(?<=://)(?:[^/\s@]*@)?(\[[^\]\s]*\]|[^/\s:,;'\")]+)")
_ADDRESS = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\w)")
_KEY = re.compile(r"\bsk-[\w-]{4,}|(?<=Bearer )\S+")
_HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::")


class Anonymous:
    """Replaces what is known of a machine. The same host has the same number everywhere."""

    def __init__(
        self,
        *,
        secrets: Iterable[str] = (),
        hosts: Iterable[str] = (),
        users: Iterable[str] = (),
        homes: Iterable[Path] = (),
    ) -> None:
        self._hosts: dict[str, str] = {}
        self._known: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
            *((re.compile(re.escape(each)), "(secret)") for each in _longest_first(secrets)),
            (_KEY, "(secret)"),
            *((_whole(str(each)), "~") for each in _longest_first(map(str, homes))),
            (_HOME, "~"),
            (_URL_HOST, lambda match: self._host(match[1])),
            (_ADDRESS, lambda match: self._host(match[0])),
            *((_whole(each), self._host(each)) for each in _longest_first(hosts)),
            *((_whole(each), "(user)") for each in _longest_first(users)),
        ]

    def __call__(self, text: str) -> str:
        for pattern, other in self._known:
            text = pattern.sub(other, text)
        return text

    def _host(self, name: str) -> str:
        if name.strip("[]") in _HERE or _is_loopback(name.strip("[]")):
            return name
        return self._hosts.setdefault(name, f"host-{len(self._hosts) + 1}")


def anonymous(box: Box | None) -> Anonymous:
    """For all that a check of ``box`` may say; without one, for what this machine may say."""
    hosts = {socket.gethostname(), socket.gethostname().partition(".")[0]}
    users = {getpass.getuser(), os.environ.get("SUDO_USER", "")}
    homes = {Path.home()}
    if box is not None:
        users.add(box.machine.site.service.user)
        homes.add(box.machine.home)
    return Anonymous(
        secrets=[] if box is None else _secrets(box),
        hosts=hosts - {"localhost"},
        users=users - {"root"},
        homes=homes - {Path("/")},
    )


def _secrets(box: Box) -> list[str]:
    found = []
    for key in ("proxy_key", "upstream_key", "master_key"):
        try:
            secret = getattr(box, key)
        except ConfigError:
            continue  # what we cannot read we cannot have said
        if secret is not None:
            found.append(secret.reveal())
    return found


def _longest_first(texts: Iterable[str]) -> list[str]:
    return sorted(filter(None, set(texts)), key=len, reverse=True)


def _whole(name: str) -> re.Pattern[str]:
    """The name where it is not part of another word."""
    return re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
