"""Whether a URL leads to this machine: asked of the kernel and of /etc/hosts, of no network."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: In the kernel's routing tree an address of the machine's own is followed by this line.
_LOCAL = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Host:
    """A machine's names, in lower case, and its addresses."""

    names: frozenset[str] = frozenset()
    addresses: frozenset[Address] = frozenset()

    def listens(self, url: str, port: int) -> bool:
        """Whether ``url``, with a path or without, is this machine's ``port``."""
        return self._server(url) == ("localhost", port)

    def same(self, one: str, other: str) -> bool:
        """Whether two URLs are of one server."""
        server = self._server(one)
        return server is not None and server == self._server(other)

    def is_at(self, host: str) -> bool:
        """Whether a name or an address is this machine's."""
        address = _address(host)
        if address is None:
            return host == "localhost" or host.endswith(".localhost") or host in self.names
        # To connect to no address is to connect to oneself.
        return address.is_loopback or address.is_unspecified or address in self.addresses

    def _server(self, url: str) -> tuple[str, int] | None:
        """Host and port; None for what is no URL."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError):
            return None
        return "localhost" if self.is_at(host) else host, port


def this_host(
    proc: Path = Path("/proc"), hosts: Path = Path("/etc/hosts"), name: str | None = None
) -> Host:
    """The machine that this runs on; ``name`` where it is not to be asked for its own."""
    own = {
        found for each in _LOCAL.findall(_text(proc / "net/fib_trie")) if (found := _address(each))
    }
    for line in _text(proc / "net/if_inet6").splitlines():
        own.add(ipaddress.IPv6Address(bytes.fromhex(line.split()[0])))
    called = (name or socket.gethostname()).lower()
    names = {called, called.partition(".")[0], f"{called.partition('.')[0]}.local"}
    for line in _text(hosts).splitlines():
        first, *others = line.partition("#")[0].split() or [""]
        address = _address(first)
        if address is not None and (address.is_loopback or address in own):
            names |= {each.lower().rstrip(".") for each in others}
    return Host(frozenset(names), frozenset(own))


def _address(text: str) -> Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
