"""Where the service looks for the router's classifier, and what is there."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optictl.errors import FetchFailed, NeedsRoot
from proxy.router.calibration import Calibration, remembered
from proxy.router.checkpoint import Checkpoint, cached, inspect, lacks, repository
from proxy.router.config import Unusable
from proxy.router.supervisor import SOCKET

if TYPE_CHECKING:
    from optictl.site import Site

#: The flag and the variable that name another folder.
_FLAG, _VARIABLE = "--router-model", "OPTILLM_ROUTER_DIR"


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that flags name, or the Hugging Face cache that ``environ`` leads to."""

    environ: Mapping[str, str]
    folder: Path | None = None
    #: Whom the service runs as; None where that is whoever asks.
    user: str | None = None
    #: Where a running service's classifier is asked; None where that cannot be known.
    socket: Path | None = None

    @property
    def repository(self) -> Path:
        """What a fetch writes into."""
        return repository(self.environ)

    def checkpoint(self) -> Checkpoint:
        """Raises `Unusable`: where there is none, or naming the first thing that is wrong."""
        return inspect(self.folder or cached(self.environ))


def of_user(environ: Mapping[str, str] = os.environ) -> Place:
    """What a service without a site reads that is started from here."""
    named = environ.get(_VARIABLE)
    return Place(environ, Path(named).expanduser() if named else None)


def of_site(site: Site, home: Path) -> Place:
    """``home`` is that of the user whom the service runs as."""
    variables = {"XDG_CACHE_HOME": f"{home}/.cache", **site.service.environment}
    named = _flag(site.proxy.flags) or variables.get(_VARIABLE)
    own = site.service.scope == "user"
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}") if own else "/run")
    return Place(
        variables,
        Path(named) if named else None,
        None if own else site.service.user,
        runtime / site.service.name / SOCKET,
    )


def told(place: Place) -> dict[str, Any]:
    """What is there: ``path``, ``bytes``, ``complete``, ``why`` it is not, ``extra`` that lacks.

    And ``int8``: what a calibration has found, if there was one.
    """
    path = place.folder or place.repository
    known = None
    try:
        checkpoint = place.checkpoint()
        path, size, why = checkpoint.folder, checkpoint.weights.stat().st_size, None
        known = remembered(checkpoint)
    except Unusable as unusable:
        size, why = None, str(unusable)
    return {
        "path": str(path),
        "bytes": size,
        "complete": why is None,
        "why": why,
        "extra": lacks() or None,
        "int8": None if known is None else _int8(known),
    }


def _int8(known: Calibration) -> dict[str, Any]:
    return {
        "used": known.better,
        "alike": known.alike,
        "milliseconds": None if known.why else round(1000 * known.small, 1),
        "full_milliseconds": round(1000 * known.full, 1),
        "said": str(known),
    }


@contextmanager
def acting_as(user: str | None) -> Iterator[None]:
    """Do what follows as ``user``, so that nothing in his folders leads root elsewhere.

    Raises `NeedsRoot` for whoever is neither, and `FetchFailed` where there is no such user.
    """
    if user is None:
        yield
        return
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise FetchFailed(f"there is no user {user} yet; run first: optictl install") from None
    if os.geteuid() == account.pw_uid:
        yield
        return
    if os.geteuid() != 0:
        raise NeedsRoot(f"only root may write what the service of {user} reads; run it with sudo")
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(user, account.pw_gid))
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        # What is imported from here on is read as that user, who runs the service from here too.
        if not os.access(os.__file__, os.R_OK, effective_ids=True):
            raise FetchFailed(
                f"{user} cannot read {sys.base_prefix}, which optictl runs from; install optictl "
                "where everybody may read it, or let others pass through the folders above that"
            )
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _flag(flags: Sequence[str]) -> str | None:
    for index, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        if name.replace("_", "-") == _FLAG:
            return value if equals else next(iter(flags[index + 1 :]), None)
    return None
