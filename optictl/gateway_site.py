"""The routing graph of a site: from what is on disk, or from what is about to be written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optictl.gateway import Graph, Ours
from optictl.gateway_config import Config, Read, read_config, variables_in
from optictl.gateway_files import find_litellm
from optictl.own_host import Host, this_host
from optictl.site import Site
from optictl.system import System
from optictl.unit_file import environment_file
from proxy.ensembles import aliases_of
from proxy.ensembles_file import loads as ensembles_of
from proxy.upstream.config import ProviderConfig

if TYPE_CHECKING:
    from optictl.machine import Machine


def site_graph(
    machine: Machine,
    *,
    to_write: Mapping[Path, bytes] | None = None,
    host: Host | None = None,
) -> Graph | None:
    """The graph of ``machine``'s site; None where it does not say where LiteLLM's ``router`` is.

    Files in ``to_write`` count as if they were on disk. Raises `ConfigError` for a file that is
    wrong, `CannotRead` for one that this user may not read.
    """
    read = reading(machine, to_write)
    site, places = machine.site, machine.places
    config = site_config(machine, read)
    if site.gateway is None or config is None:
        return None
    own = environment_file(read(places.env) or b"")
    pool = _providers(read(places.proxy_config), places.proxy_config, own)
    # The proxy takes them for one (`proxy.upstream.limits.pools_of`).
    alone = pool[0] if [each.base_url for each in pool] == [site.upstream.base_url] else None
    ensembles = read(places.ensembles)
    return Graph(
        config=config,
        ours=Ours(
            port=site.proxy.port,
            base_model=site.proxy.base_model,
            approach=site.proxy.approach,
            upstream=alone or ProviderConfig("upstream", site.upstream.base_url),
            pool=pool,
            ensembles=ensembles_of(
                (ensembles or b"").decode(errors="replace"), places.ensembles, single=True
            ),
            aliases=aliases_of(own),
        ),
        url=site.gateway.base_url,
        host=host or this_host(),
    )


def site_config(machine: Machine, read: Read) -> Config | None:
    """LiteLLM's configuration, with what it is started with; None where the site names none.

    Its variables are those of its unit, of the files that this names or that stand beside
    ``router``, and of ``gateway.env_file``; the last that sets one counts.
    """
    return litellm_config(machine.system, machine.site, machine.home, read)


def litellm_config(system: System, site: Site, home: Path, read: Read) -> Config | None:
    """`site_config` of a site whose service's user lives in ``home``."""
    gateway = site.gateway
    if gateway is None or gateway.router is None:
        return None
    router = Path(gateway.router)
    found = find_litellm(system, router, [home], site.service.scope == "user")
    variables = {} if found is None else dict(found.variables)
    if gateway.env_file is not None:
        variables |= variables_in(read(Path(gateway.env_file)) or b"")
    return read_config(router, read, variables)


def reading(machine: Machine, to_write: Mapping[Path, bytes] | None = None) -> Read:
    """Reads the disk of ``machine``; files in ``to_write`` count as if they were on it."""

    def read(path: Path) -> bytes | None:
        if to_write is not None and path in to_write:
            return to_write[path]
        found = machine.system.read(path)
        return None if found is None else found.content

    return read


def _providers(
    content: bytes | None, path: Path, own: Mapping[str, str]
) -> tuple[ProviderConfig, ...]:
    # Imported here: it takes long.
    from proxy.upstream.config_file import loads
    from proxy.upstream.routing import strategies

    if content is None:
        return ()
    # Which key it is does not matter.
    environ = {"OPENAI_API_KEY": "any", **own}
    config, _ = loads(content.decode(errors="replace"), path, environ, strategies())
    return config.providers
