"""Who listens on the port, and on which addresses."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from optictl.box import Box
from optictl.checking import Finding, check, fail, ok, skipped

_LISTEN = "0A"
_INIT = "systemd"


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class _Listener:
    address: _Address
    inode: str


@check(group="service", pace="fast")
def port(box: Box) -> Finding:
    """The port is held by the service or its socket, and only for this machine.

    With the socket unit it is systemd itself that holds it too. Where a process of another service
    has it, stop that one, or give the proxy another port (`proxy.port`).
    """
    site = box.machine.site
    number = site.proxy.port
    unit = box.service
    found = list(_listeners(box.proc, number))
    if not found:
        return fail(f"nobody listens on port {number}", box.optictl("start"))
    holders = _holders(box.proc, {each.inode for each in found})
    for pid in sorted({pid for pids in holders.values() for pid in pids}):
        if pid == unit.main_pid or _in_unit(box.proc, pid, unit.name):
            continue
        name = _name(box.proc, pid)
        if name == _INIT and box.socket.running:
            continue
        said = f"port {number} is held by process {pid} ({name}), not by {unit.name}"
        return fail(said, f"stop it (ps -fp {pid}), or set another proxy.port")
    outside = [str(each.address) for each in found if not each.address.is_loopback]
    if outside and not site.proxy.allow_external:
        said = f"port {number} is open to other machines: it listens on {', '.join(outside)}"
        return fail(said, "set proxy.host to 127.0.0.1, then optictl install")
    where = ", ".join(f"{each.address}" for each in found)
    if {each.inode for each in found} - set(holders):
        return skipped(f"{where} port {number}; whose process that is, only root sees")
    return ok(f"{where} port {number}, held by {unit.name}")


def _listeners(proc: Path, port: int) -> Iterator[_Listener]:
    for name in ("tcp", "tcp6"):
        lines: list[str] = []
        with suppress(OSError):  # a kernel without IPv6 has no tcp6
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        for line in lines:
            fields = line.split()
            address, _, number = fields[1].partition(":")
            if fields[3] == _LISTEN and int(number, 16) == port:
                yield _Listener(_address(address), fields[9])


def _address(digits: str) -> _Address:
    """From words of 32 bits, each in the machine's own order of bytes (proc(5))."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address


def _holders(proc: Path, inodes: set[str]) -> dict[str, set[int]]:
    """The processes that have each socket open, as far as this user may see them."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    holders: dict[str, set[int]] = {}
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        with suppress(OSError):  # another user's, or gone
            for descriptor in (folder / "fd").iterdir():
                with suppress(OSError):
                    inode = wanted.get(str(descriptor.readlink()))
                    if inode is not None:
                        holders.setdefault(inode, set()).add(int(folder.name))
    return holders


def _in_unit(proc: Path, pid: int, unit: str) -> bool:
    return any(unit in line.split("/") for line in _read(proc / str(pid) / "cgroup").splitlines())


def _name(proc: Path, pid: int) -> str:
    return _read(proc / str(pid) / "comm").strip() or "of an unknown name"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
