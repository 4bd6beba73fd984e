"""Who a request has passed through already, so that a loop ends at its first repetition.

As CDN-Loop (RFC 8586) does, each instance appends its own id and refuses what carries it. The list
travels in a header. LiteLLM drops every request header by default; what it does pass on is a body
member ``headers``, which it turns into real headers of its own call. So behind a LiteLLM both are
sent, and one header is read.
"""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path

from proxy.errors import BadRequest

HEADER = "x-optillm-hop"
#: What an id may look like; anything else in the header is not ours to understand.
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: More instances in a row than any real chain has.
_LONGEST = 32


class LoopDetected(BadRequest):
    """400 and not 508, as a gateway would send that again, at each level."""

    code = "loop_detected"


def instance_id(host: str, port: int) -> str:
    """The id of a service: the same for all its workers and after a restart.

    Made of the machine and the address it listens on, hashed, so that it tells nobody either.
    """
    machine = Path("/etc/machine-id")
    name = machine.read_text().strip() if machine.is_file() else socket.gethostname()
    return hashlib.sha256(f"{name} {host} {port}".encode()).hexdigest()[:12]


def onward(header: str, own: str) -> str:
    """The header of the calls made for a request that arrived with ``header``.

    Raises `LoopDetected` where the request has been here before.
    """
    hops = [hop for part in header.split(",") if _ID.fullmatch(hop := part.strip())]
    if own in hops:
        raise LoopDetected(
            "This request has passed through this proxy already: the base model it asks for leads "
            "back here. A gateway must send base names straight to a backend."
        )
    if len(hops) >= _LONGEST:
        raise LoopDetected(f"This request has passed through {len(hops)} proxies.")
    return ", ".join([*hops, own])
