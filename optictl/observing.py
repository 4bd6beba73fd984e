"""The running service that commands look into: the one that flags name, or the site's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optictl.options import config_path, open_machine
from proxy.settings import DEFAULT_HOST, DEFAULT_PORT, Secret, read_key_file

if TYPE_CHECKING:
    from optictl.client import ProxyClient

ProxyUrl = Annotated[
    str | None,
    typer.Option(
        help=f"The proxy's address; else the site's, or http://{DEFAULT_HOST}:{DEFAULT_PORT}."
    ),
]
KeyFile = Annotated[
    str | None, typer.Option(help="File with the key that the proxy asks for; else the site's.")
]


def observed(
    url: str | None,
    key_file: str | None,
    config: Path | None,
    sets: Sequence[str] | None,
    *,
    user: bool,
) -> ProxyClient:
    """A client of the service. Raises `ConfigError`, and `UsageError` for a URL that is none."""
    # Imported here: `optictl --help` needs no HTTP client.
    from optictl.client import ProxyClient

    key = None if key_file is None else read_key_file(key_file, "--api-key-file")
    if url is None and (config is not None or config_path(config, user=user).exists()):
        url, own = _of_site(config, sets, user=user)
        key = key or own
    return ProxyClient(url or f"http://{DEFAULT_HOST}:{DEFAULT_PORT}", key)


def _of_site(
    config: Path | None, sets: Sequence[str] | None, *, user: bool
) -> tuple[str, Secret | None]:
    # Imported here: reading the site takes long to import.
    from optictl.key_places import read_key
    from optictl.render import reached_at

    proxy = open_machine(config, sets, user=user).site.proxy
    return reached_at(proxy), None if proxy.key is None else read_key(proxy.key)
