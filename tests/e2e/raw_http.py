"""HTTP by hand, for clients that behave as no library lets them."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Self

CHAT = "/v1/chat/completions"


def request_bytes(body: Any, path: str = CHAT, **headers: str) -> bytes:
    """A POST request; ``headers`` in place of those that would be right."""
    payload = json.dumps(body).encode()
    fields = {"Host": "proxy", "Content-Length": str(len(payload)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + payload


class Wire:
    """One TCP connection. ``window`` is the receive buffer: small, and unread bytes stay there."""

    def __init__(self, port: int, *, window: int | None = None, timeout: float = 60.0) -> None:
        self.socket = socket.socket()
        self._responses: list[http.client.HTTPResponse] = []
        if window is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def response(self) -> http.client.HTTPResponse:
        """The next response, its head read."""
        response = http.client.HTTPResponse(self.socket, method="POST")
        response.begin()
        self._responses.append(response)
        return response

    def ended(self) -> bool:
        """Whether the server closes the connection; reads away what it still sends."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        # A response holds the connection open too.
        for response in self._responses:
            response.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
