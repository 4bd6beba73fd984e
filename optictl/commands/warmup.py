"""``optictl warmup``: wait until the service has given its first answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optictl.console import data, emit_json, say
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result
from proxy.settings import read_key_file


def warmup(
    url: Annotated[str | None, typer.Option(help="The proxy; else the site's.")] = None,
    body: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The request to send; else warmup.json.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Give up then; else the site's, or 60."),
    ] = None,
    key_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="The key that the proxy asks for; without --url the site's."
        ),
    ] = None,
    pid: Annotated[
        str | None, typer.Option(help="Give up as soon as this process has ended: $MAINPID.")
    ] = None,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Ask the running service for one short answer, again and again until it comes.

    The unit does this at each start, so that systemd calls it started once it
    answers. What is waited for is said on stderr. Without flags, the site
    says where the service is and with which key.

    It fails at the timeout, when the process of --pid has ended, and at once
    for an answer that waiting does not change: a wrong key, an unknown model.

    \b
    Examples:
      optictl warmup
      optictl warmup --url http://127.0.0.1:4020 --body warmup.json --timeout 60
    """
    # Imported here: `optictl --help` needs no HTTP client.
    from optictl.warming import process_id, read_body, warm

    watched = None if pid is None else process_id(pid)
    key = None if key_file is None else read_key_file(key_file, "--key-file")
    if url is None or body is None:
        # The unit's way is without these: reading the site takes long to import.
        from optictl.key_places import read_key
        from optictl.render import reached_at

        machine = open_machine(config, sets, user=user)
        site = machine.site
        if url is None:
            url = reached_at(site.proxy)
            if key is None and site.proxy.key is not None:
                key = read_key(site.proxy.key)
        body = machine.places.warmup if body is None else body
        timeout = site.proxy.warmup_timeout if timeout is None else timeout
    limit = 60.0 if timeout is None else timeout
    done = warm(url, read_body(body), key, timeout=limit, pid=watched, tell=say)
    if as_json:
        emit_json(Result("warmup", done.as_json()))
    else:
        data(f"warm: {done.model} answered after {done.seconds:.1f} s")
