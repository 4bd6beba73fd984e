"""What the operator says about the classifier, and what may come of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "bf16", "int8", "fp32"]
#: Why the steps between products (`proxy.router.steps`) are torch's, unless a compiler has failed.
NO_COMPILER = "there is no C compiler (cc)"


class Unusable(Exception):
    """Why there is no classifier, in words for the operator, with the mend."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """How the classifier is loaded and asked. Seconds, unless a name says otherwise."""

    #: The checkpoint's folder; None for the Hugging Face cache of this user.
    model: str | None = None
    #: What a decision has to be sure of, as a share of 1.
    min_confidence: float = 0.55
    #: What the logits are divided by: above 1 for a classifier that is too sure of itself.
    temperature: float = 1.0
    #: For requests that say none: 0 is cheap, 1 is thorough. The classifier's authors ask with .7.
    effort: float = 0.7
    #: Of a request's text, at most.
    max_tokens: int = 512
    #: Of the CPU, for the classifier's process; 0 for one to each CPU.
    threads: int = 0
    precision: Precision = "auto"
    #: How long a request waits for a decision.
    within: float = 0.25


@dataclass(frozen=True, slots=True)
class State:
    """Whether decisions can be had. ``why`` says what is amiss or, when ready, what was settled."""

    phase: Literal["loading", "ready", "absent"]
    why: str = ""
