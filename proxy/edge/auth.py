"""Who may ask: one shared bearer key, compared in constant time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from proxy.errors import Unauthorized
from proxy.settings import Secret


def authenticate(environ: Mapping[str, Any], key: Secret | None) -> str:
    """The tenant of a request: a digest of its key, which cannot be turned back.

    Without a configured key any bearer is accepted. Raises `Unauthorized`.
    """
    # WSGI hands headers over as latin-1 text; the bytes on the wire are what is compared.
    header = str(environ.get("HTTP_AUTHORIZATION", "")).encode("latin-1", "replace")
    scheme, _, token = header.partition(b" ")
    token = token.strip() if scheme.lower() == b"bearer" else b""
    if key is not None and not (token and key.matches(token)):
        raise Unauthorized(
            "Invalid Authorization header. Expected 'Authorization: Bearer <key>' with the key "
            "that the proxy was started with (--optillm-api-key-file)."
        )
    return hashlib.sha256(token).hexdigest()[:16]
