"""From the site on disk to the files that it asks for: what rendering needs to know, found out."""

from __future__ import annotations

import pwd
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optictl.artifact import Artifact
from optictl.ensemble_registry import rendered
from optictl.key_places import read_key
from optictl.places import Places
from optictl.program_path import program_path
from optictl.render import Facts, render
from optictl.site import Site
from optictl.systemd import version
from proxy.settings import Secret


@dataclass(frozen=True, slots=True)
class Desired:
    """Every file of a site as it should be."""

    artifacts: tuple[Artifact, ...]
    places: Places


def desired(
    site: Site,
    *,
    systemd: int | None = None,
    root: Path = Path("/"),
    aliases: Mapping[str, str] | None = None,
    model_map: Mapping[str, str] | None = None,
    degraded: bool = False,
) -> Desired:
    """Render ``site`` for this machine; ``systemd`` is its version, asked for where it is None.

    ``aliases`` are the variables by which the proxy knows LiteLLM's handles, ``model_map`` are the
    names under which it calls base models. ``degraded``: it answers every request by ``none``.

    Keys and the registry of ensembles are read in the staging tree ``root``, where they are there.

    Raises `OptictlError` and `ConfigError` for what keeps a file from being rendered: a key that
    is not where the site says, a systemd that is too old, a registry with a mistake.
    """
    home = home_of(site)
    places = Places.of(site, home=home)
    facts = Facts(
        optictl=program_path(),
        systemd=version() if systemd is None else systemd,
        home=home,
        python=Path(sys.base_prefix).resolve(),
        ensembles=rendered(site, places, root),
        aliases=aliases or {},
        model_map=model_map or {},
        degraded=degraded,
    )
    return Desired(tuple(render(site, facts, secrets_of(site, root), places)), places)


def home_of(site: Site) -> Path:
    """The home of the service's user, who may not exist yet."""
    if site.service.scope == "user":
        return Path.home()
    return home_of_user(site.service.user)


def home_of_user(name: str) -> Path:
    """The home of a user, or what it will be."""
    try:
        return Path(pwd.getpwnam(name).pw_dir)
    except KeyError:
        return Path("/home") / name


def secrets_of(site: Site, root: Path = Path("/")) -> Mapping[str, Secret]:
    """The secrets that rendering asks for, by their settings' names."""
    secrets = {}
    if site.upstream.key is not None:
        secrets["upstream.key"] = read_key(site.upstream.key, root)
    # One with a file of its own goes from there to the service, past us.
    if site.proxy.key is not None and site.proxy.key.file is None:
        secrets["proxy.key"] = read_key(site.proxy.key, root)
    return secrets
