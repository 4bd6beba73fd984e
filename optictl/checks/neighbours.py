"""The other services on the way."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

from optictl.box import Box, NoAnswer, shown
from optictl.checking import Finding, check, fail, ok, skipped
from optictl.site import Neighbour


@check(group="neighbours", pace="fast", network=True)
def neighbours(box: Box) -> Finding:
    """Every neighbour that the site names answers as it says there.

    By `url`, with the status `expect` (200); by `port`, with a connection.
    """
    named = box.machine.site.neighbours
    if not named:
        return skipped("the site names none")
    with ThreadPoolExecutor(max_workers=len(named)) as pool:
        troubles = list(pool.map(lambda each: trouble(box, each), named))
    said = [
        f"{each.name}: {trouble}" for each, trouble in zip(named, troubles, strict=True) if trouble
    ]
    if said:
        path = box.machine.loaded.path
        return fail("; ".join(said), f"start what is missing, or mend neighbours in {path}")
    return ok(", ".join(each.name for each in named))


def trouble(box: Box, neighbour: Neighbour) -> str:
    """What is wrong with it; empty where nothing is."""
    if neighbour.url is not None:
        try:
            status = box.get(neighbour.url).status_code
        except NoAnswer as error:
            return str(error)
        wrong = status != neighbour.expect
        return f"HTTP {status}, not {neighbour.expect}, at {shown(neighbour.url)}" if wrong else ""
    host, _, port = str(neighbour.port).rpartition(":")
    address = host.strip("[]") or "127.0.0.1", int(port)
    try:
        socket.create_connection(address, timeout=box.timeout).close()
    except OSError as error:
        return f"nothing listens at {address[0]}:{port} ({error.strerror or error})"
    return ""
