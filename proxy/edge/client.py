"""The client's side of a connection: is it still there, and is it still sending."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from gunicorn.http.errors import NoMoreData, ParseException

from proxy.errors import BadRequest, BodyTimeout, BodyTooLarge

_CHUNK = 256 * 1024


class ClientGone(Exception):
    """The client has hung up: nobody is left to answer."""


class ClientSocket:
    """The socket of a WSGI request, where the server tells it (gunicorn does)."""

    __slots__ = ("_socket",)

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._socket: socket.socket | None = environ.get("gunicorn.socket")

    def gone(self) -> bool:
        """Whether the client has hung up. Never blocks.

        ``recv`` and not ``select.select``, which fails for descriptors from 1024 on.
        """
        if self._socket is None:
            return False
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


def announced_length(environ: Mapping[str, Any]) -> int | None:
    """The body's length in bytes as its head says; None for one in chunks."""
    announced = environ.get("CONTENT_LENGTH")
    return int(announced) if announced and str(announced).isdigit() else None


def read_body(environ: Mapping[str, Any], limit: int) -> bytes:
    """The request's body.

    Raises `BodyTooLarge`, `BodyTimeout` for a client that stops sending, `BadRequest` for one that
    sends less than it announced, and `ClientGone`.
    """
    length = announced_length(environ)
    if length is not None and length > limit:
        raise _too_large(limit)
    stream = environ["wsgi.input"]
    pieces: list[bytes] = []
    received = 0
    try:
        while received <= limit:
            piece = stream.read(_CHUNK if length is None else min(_CHUNK, length - received))
            if not piece:
                break
            pieces.append(piece)
            received += len(piece)
            if received == length:
                break
    except (BlockingIOError, TimeoutError):
        raise BodyTimeout("The body stopped coming.") from None
    except ConnectionError:
        raise ClientGone from None
    except (NoMoreData, ParseException):
        raise BadRequest("The body ended early or its chunks are malformed.") from None
    if received > limit:
        raise _too_large(limit)
    if length is not None and received < length:
        raise BadRequest(f"The body ended after {received} of {length} bytes.")
    return b"".join(pieces)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit // (1024 * 1024)} MB (--max-body-mb).")
