"""How a simulated model behaves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Literal

from optictl.simulator.faults import Fault

Support = Literal["honoured", "ignored", "refused"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one model answers: how fast, how well, and what of the API it supports.

    Attributes:
        latency: seconds to the answer, or to a stream's first byte; the mean where `sigma` > 0.
        sigma: > 0 makes the latency lognormal with this shape parameter.
        chunk_interval: seconds between the chunks of a stream; 0 sends it in one write.
        chunk_chars: characters in a chunk.
        probability: p that a sample is right.
        distractors: relative weights of the K wrong answers of each question.
        aggregator_skill: probability that an aggregator returns the plurality of the candidates it
            is shown; otherwise it answers like a solver.
        judge_separation: d; a judge sees a right candidate as N(d, 1), a wrong one as N(0, 1).
            0 is a judge that guesses, 10 one that is never wrong.
        n: what it does with ``n`` > 1: all choices, one choice, or 400.
        stream_options: what it does with ``stream_options``.
        usage: whether it reports usage.
        reasoning: text sent as ``reasoning_content``.
        tokens: length of the reasoning inside an answer, in tokens of four characters.
        faults: what goes wrong; see `Fault`.
        seed: of everything drawn.
    """

    latency: float = 0.0
    sigma: float = 0.0
    chunk_interval: float = 0.0
    chunk_chars: int = 12
    probability: float = 1.0
    distractors: tuple[float, ...] = (1.0, 1.0, 1.0)
    aggregator_skill: float = 1.0
    judge_separation: float = 2.0
    n: Support = "honoured"
    stream_options: Support = "honoured"
    usage: bool = True
    reasoning: str = ""
    tokens: int = 24
    faults: tuple[Fault, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("latency", "sigma", "chunk_interval", "tokens"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and at least 0")
        for name in ("probability", "aggregator_skill"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1")
        if self.chunk_chars < 1:
            raise ValueError("chunk_chars must be at least 1")
        if not self.distractors or min(self.distractors) < 0 or sum(self.distractors) <= 0:
            raise ValueError("distractors must be weights, at least one of them above 0")
        if not math.isfinite(self.judge_separation):
            raise ValueError("judge_separation must be finite")

    def draw_latency(self, random: Random) -> float:
        """Seconds until the answer of one call."""
        if self.sigma == 0 or self.latency == 0:
            return self.latency
        mu = math.log(self.latency) - self.sigma**2 / 2
        return random.lognormvariate(mu, self.sigma)
