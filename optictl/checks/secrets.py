"""Who may read the keys."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optictl.box import Box
from optictl.checking import Finding, check, fail, ok, skipped
from optictl.errors import CannotWrite
from optictl.site import KeyPlace, Site


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file with a key in it, and the permission bits that it must not have."""

    path: Path
    forbidden: int
    #: Who may own it; empty: anybody.
    owners: frozenset[int] = frozenset()


@check(group="settings", pace="fast")
def secrets(box: Box) -> Finding:
    """Files with a key in them can be read by nobody else.

    Ours, and key files, belong to root or to the service's user and have no bit for group or
    others. A file of variables that other services read as well may be readable for a group.
    """
    if box.machine.manager is None:
        return skipped("a staging tree's files belong to nobody yet")
    open_, foreign, unseen, seen = [], [], [], 0
    for kept in _kept(box):
        try:
            stat = kept.path.stat()
        except FileNotFoundError:
            continue
        except OSError:
            unseen.append(kept.path)
            continue
        seen += 1
        if stat.st_mode & kept.forbidden:
            open_.append((kept, stat.st_mode & 0o7777))
        elif kept.owners and stat.st_uid not in kept.owners:
            foreign.append(kept.path)
    if open_:
        said = ", ".join(f"{kept.path} (mode {mode:04o})" for kept, mode in open_)
        commands = " && ".join(
            f"chmod {mode & ~kept.forbidden:04o} {kept.path}" for kept, mode in open_
        )
        return fail(f"others may read {said}", commands, lambda: _close(open_))
    if foreign:
        named = " ".join(map(str, foreign))
        return fail(f"belongs neither to root nor to the service: {named}", f"chown root {named}")
    if unseen:
        return skipped(f"only root sees {', '.join(map(str, unseen))}")
    if not seen:
        return ok("no file holds a key")
    return ok(f"{seen} file{'s' if seen > 1 else ''} with keys, closed to others")


def _kept(box: Box) -> Iterator[_Kept]:
    site, places = box.machine.site, box.machine.places
    owners = _owners(site)
    ours = {places.env, places.proxy_key}
    yield from (_Kept(path, 0o077, owners) for path in sorted(ours))
    gateway = site.gateway
    for place in (site.proxy.key, site.upstream.key, gateway and gateway.master_key):
        if isinstance(place, KeyPlace) and place.file is not None:
            yield _Kept(Path(place.file), 0o077, owners)
        elif isinstance(place, KeyPlace) and place.env_file is not None:
            yield _Kept(Path(place.env_file), 0o007)


def _owners(site: Site) -> frozenset[int]:
    if site.service.scope == "user":
        return frozenset({os.getuid()})
    try:
        return frozenset({0, pwd.getpwnam(site.service.user).pw_uid})
    except KeyError:
        return frozenset({0})


def _close(open_: list[tuple[_Kept, int]]) -> str:
    for kept, mode in open_:
        try:
            kept.path.chmod(mode & ~kept.forbidden)
        except OSError as error:
            raise CannotWrite(f"cannot change the mode of {kept.path}: {error.strerror}") from error
    return f"took the rights of others from {', '.join(str(kept.path) for kept, _ in open_)}"
