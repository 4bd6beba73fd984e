"""An upstream's error response as one of our errors: whose fault it was, in its own words."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from proxy.errors import (
    ModelNotFound,
    UpstreamAuth,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)

#: LiteLLM rewrites bodies and hands a backend's headers on under names of its own.
_BEHIND = "llm_provider-"
_CODE_HEADERS = ("x-optillm-error", f"{_BEHIND}x-optillm-error")
_RETRY_HEADERS = ("retry-after", f"{_BEHIND}retry-after")
#: What LiteLLM and Z.ai say with a 400 where others say 404, and LiteLLM for a 401.
_NO_SUCH_MODEL = (
    "check the model code",
    "Invalid model name",
    "no healthy deployments for this model",
    "There is no 'model_name' with this string",
)
_WRONG_KEY = "No connected db"
#: How LiteLLM begins what it passes on from the backend behind it.
_PASSED_ON = "litellm."


def refusal(
    status: int,
    headers: Mapping[str, str],
    received: bytes,
    quoted: Callable[[Any], str],
    *,
    key_source: str = "its key",
) -> UpstreamError:
    """The error for a response that is not 200; ``quoted`` makes its words fit to be shown."""
    details = _error_object(received)
    said = quoted(details.get("message") or f"HTTP {status}")
    if status in (401, 403) or (status == 400 and said.startswith(_WRONG_KEY)):
        # Its words may quote the key that it refuses.
        if said.startswith(_PASSED_ON):
            return UpstreamAuth(
                f"The backend behind the upstream refused the upstream's key ({status}). "
                "Check the api_key of this model there."
            )
        return UpstreamAuth(
            f"The upstream refused the proxy's own key ({status}). Check {key_source}."
        )
    if status == 404 or (status == 400 and any(words in said for words in _NO_SUCH_MODEL)):
        return ModelNotFound(f"The upstream does not have this model: {said}", param="model")
    if status == 429:
        return UpstreamRateLimited(said, retry_after=_retry_after(headers))
    if status in (400, 413, 422):
        param = details.get("param")
        return UpstreamRejected(
            said,
            status=status,
            code=_code(headers, details.get("code"), quoted),
            param=quoted(param) if isinstance(param, str) and param else None,
        )
    if status in (408, 504):
        return UpstreamTimeout(f"The upstream timed out ({status}): {said}")
    if status in (503, 529):
        return UpstreamOverloaded(
            f"The upstream is overloaded ({status}): {said}", retry_after=_retry_after(headers)
        )
    return UpstreamError(f"The upstream answered {status}: {said}")


def _code(headers: Mapping[str, str], given: Any, quoted: Callable[[Any], str]) -> str | None:
    """The code to pass on: a gateway's is but the status once more."""
    for name in _CODE_HEADERS:
        if headers.get(name):
            return quoted(headers[name])
    return quoted(given) if isinstance(given, str) and given and not given.isdigit() else None


def _error_object(received: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(received)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(answer, list) and answer:
        # Gemini says it in a list.
        answer = answer[0]
    if not isinstance(answer, dict):
        return {}
    error = answer.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    # Cerebras, Mistral and older vLLM wrap nothing around it; FastAPI calls it "detail".
    return {**answer, "message": answer.get("message") or answer.get("detail")}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait (RFC 9110 §10.2.3): given as such, or as a date."""
    value = next((headers[name] for name in _RETRY_HEADERS if name in headers), "")
    with suppress(ValueError):
        seconds = float(value)
        return seconds if 0 <= seconds < math.inf else None
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None
