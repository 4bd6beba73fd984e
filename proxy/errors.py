"""Everything that can go wrong with a request, and the shape it takes on the wire.

    ProxyError                      500  internal_error
    ├── BadRequest                  400  invalid_request, or a code of its own
    │   ├── BudgetTooSmall          400  budget_too_small
    │   └── BudgetExhausted         400  budget_exhausted
    ├── BodyTooLarge                413  body_too_large
    ├── BodyTimeout                 408  body_timeout
    ├── Unauthorized                401  invalid_api_key
    ├── NotFound                    404  not_found, model_not_found
    ├── MethodNotAllowed            405  method_not_allowed
    ├── Overloaded                  503  overloaded
    ├── ShuttingDown                503  shutting_down
    ├── DeadlineExceeded            504  deadline_exceeded
    ├── TooFewMembers               502  too_few_members, or 503
    └── UpstreamError               502  upstream_error
        ├── UpstreamRejected        the upstream's own 400, 413 or 422
        │   └── ChoicesRefused      400  an upstream that gives one choice a call
        ├── ModelNotFound           400  model_not_found
        ├── UpstreamAuth            502  upstream_auth
        ├── UpstreamRateLimited     429  upstream_rate_limited
        ├── UpstreamOverloaded      503  upstream_overloaded
        ├── UpstreamUnreachable     502  upstream_unreachable
        ├── UpstreamTimeout         504  upstream_timeout
        ├── UpstreamInvalid         502  upstream_invalid_response
        ├── EmptyReply              502  upstream_empty_reply
        ├── NoHealthyProvider       503  no_healthy_providers
        └── QueueFull               503  queue_full, queue_timeout

    ConfigError                     what the operator gave cannot be used; exit status 2

A gateway in front of us may rewrite bodies, so the code also travels as the response header
``x-optillm-error``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ConfigError(Exception):
    """A setting that cannot be used: says which, why, and what to do."""


class ProxyError(Exception):
    """An error with an HTTP status, a stable code, and OpenAI's error object."""

    status: ClassVar[int] = 500
    code: str = "internal_error"
    type: ClassVar[str] = "server_error"
    #: Sent as Retry-After where nothing better is known, in seconds.
    usual_retry_after: ClassVar[float | None] = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        #: What the request had done by then: the ``optillm`` object of an answer, and the usage.
        self.summary: Mapping[str, Any] = {}
        self.usage: Mapping[str, Any] = {}
        if code is not None:
            self.code = code

    def http_status(self) -> int:
        return self.status

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        # An upstream's code may be any text; one that no header can carry stays in the body.
        sound = self.code.isascii() and self.code.isprintable()
        headers = {"x-optillm-error": self.code if sound else type(self).code}
        retry_after = self.usual_retry_after if self.retry_after is None else self.retry_after
        if retry_after is not None:
            headers["Retry-After"] = str(max(1, round(retry_after)))
        return headers


class BadRequest(ProxyError):
    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class BudgetTooSmall(BadRequest):
    """The budget does not cover even the least the approach needs; nothing was called."""

    code = "budget_too_small"


class BudgetExhausted(BadRequest):
    """The budget ended before any answer was kept."""

    code = "budget_exhausted"


class BodyTooLarge(ProxyError):
    status = 413
    code = "body_too_large"
    type = "invalid_request_error"


class BodyTimeout(ProxyError):
    """The client announced a body and stopped sending it."""

    status = 408
    code = "body_timeout"
    type = "invalid_request_error"


class Unauthorized(ProxyError):
    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class NotFound(ProxyError):
    status = 404
    code = "not_found"
    type = "invalid_request_error"


class MethodNotAllowed(ProxyError):
    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"


class Overloaded(ProxyError):
    status = 503
    code = "overloaded"
    type = "overloaded_error"


class ShuttingDown(ProxyError):
    status = 503
    code = "shutting_down"
    type = "overloaded_error"


class DeadlineExceeded(ProxyError):
    """The deadline passed and no answer had been kept."""

    status = 504
    code = "deadline_exceeded"
    type = "timeout_error"


class UpstreamError(ProxyError):
    """The upstream answered with an error, not at all, or with something unusable."""

    status = 502
    code = "upstream_error"
    type = "upstream_error"


class TooFewMembers(ProxyError):
    """Fewer of an ensemble's proposers than it needs could be asked.

    503 where all of the ``lost``, errors by model, may be there again in a moment.
    """

    status = 502
    code = "too_few_members"
    type = "upstream_error"

    def __init__(self, lost: Mapping[str, UpstreamError], there: int, needed: int) -> None:
        why = "; ".join(f"'{model}': {error.message}" for model, error in lost.items())
        super().__init__(
            f"{there} of the ensemble's proposers could be asked, {needed} are needed. {why}"
        )
        self._temporary = all(error.http_status() in (429, 503) for error in lost.values())
        if self._temporary:
            waits = (error.retry_after or error.usual_retry_after for error in lost.values())
            self.retry_after = max(filter(None, waits), default=1.0)

    def http_status(self) -> int:
        return 503 if self._temporary else self.status


class UpstreamRejected(UpstreamError):
    """The upstream blames the request (400, 413, 422): its status and words are kept."""

    type = "invalid_request_error"

    def __init__(
        self, message: str, *, status: int, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message, code=code or "upstream_rejected", param=param)
        self._status = status

    def http_status(self) -> int:
        return self._status


class ChoicesRefused(UpstreamRejected):
    """The upstream gives one choice a call, and the client has asked for several."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=400, code="choices_refused", param="n")


class ModelNotFound(UpstreamError):
    """400, not 404: a gateway would put the whole deployment into cool-down on a 404."""

    status = 400
    code = "model_not_found"
    type = "invalid_request_error"


class UpstreamAuth(UpstreamError):
    """The upstream refused our key. 502: the client's own key is not at fault."""

    code = "upstream_auth"


class UpstreamRateLimited(UpstreamError):
    status = 429
    code = "upstream_rate_limited"
    type = "rate_limit_error"


class UpstreamOverloaded(UpstreamError):
    status = 503
    code = "upstream_overloaded"
    type = "overloaded_error"
    usual_retry_after = 1.0


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        #: No connection came about; otherwise one broke.
        self.refused = refused


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"
    type = "timeout_error"


class UpstreamInvalid(UpstreamError):
    """The upstream said 200 and sent something that is no chat completion."""

    code = "upstream_invalid_response"


class EmptyReply(UpstreamError):
    """A reply with neither text nor tool calls."""

    code = "upstream_empty_reply"


class NoHealthyProvider(UpstreamError):
    """Every provider that could serve the call is left out because it has failed."""

    status = 503
    code = "no_healthy_providers"
    type = "overloaded_error"
    usual_retry_after = 1.0


class QueueFull(UpstreamError):
    """No provider has room for the call, and it cannot or may not wait for it."""

    status = 503
    code = "queue_full"
    type = "overloaded_error"
    usual_retry_after = 1.0
