"""Whose fault a failed call is: it decides who is asked next, and who is left alone."""

from __future__ import annotations

from enum import Enum, auto

from proxy.errors import (
    ModelNotFound,
    UpstreamAuth,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnreachable,
)


class Blame(Enum):
    """What a failed call says about its provider."""

    #: Nothing: the request cannot be answered by anybody.
    CLIENT = auto()
    #: That it has no such model; it is well otherwise.
    LACKS_MODEL = auto()
    #: That it has enough to do; it says for how long.
    OVERLOAD = auto()
    #: That it does not answer this model well; others of its models may be fine.
    SERVICE = auto()
    #: That it answers nothing at all: nobody listens, or our key is refused.
    PROVIDER = auto()


def blame(error: UpstreamError) -> Blame:
    """What ``error`` says about the provider that it came from."""
    if isinstance(error, UpstreamRejected):
        return Blame.CLIENT
    if isinstance(error, ModelNotFound):
        return Blame.LACKS_MODEL
    if isinstance(error, UpstreamRateLimited | UpstreamOverloaded):
        return Blame.OVERLOAD
    if isinstance(error, UpstreamAuth):
        return Blame.PROVIDER
    if isinstance(error, UpstreamUnreachable):
        # A connection that broke may have been the model's crash; one that was refused is not.
        return Blame.PROVIDER if error.refused else Blame.SERVICE
    return Blame.SERVICE
