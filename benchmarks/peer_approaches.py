"""The approaches that OptiLLM has too: how long both take for an answer, and how good it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from statistics import fmean, geometric_mean
from typing import Any

from benchmarks.load import chat
from benchmarks.peer_model import PeerModel
from benchmarks.sides import Effort, Make, Row, optictl
from optictl.client import ProxyClient
from optictl.errors import OptictlError
from optictl.simulator import Behaviour, SimulatorThread, gold
from optictl.simulator.questions import find_answer
from optictl.simulator.replies import same
from proxy.voting import exact_plurality

#: One call each.
PROMPTS = ("none", "re2", "cot_reflection")
#: Several choices each, by how many OptiLLM's take.
APPROACHES = (
    "leap", "z3", "plansearch", "rto", "self_consistency", "moa", "genselect", "bon", "deepthink",
    "majority_voting", "mcts", "rstar", "pvg", "cepo", "mars",
)  # fmt: skip
#: What more choices than OptiLLM's buy, where that is what an approach is for.
WIDER: Mapping[str, Mapping[str, Any]] = {"plansearch": {"samples": 8, "selections": 3}}
LATENCY = 0.2
#: Right three times out of five; of a right and a wrong answer the judge prefers the right one 76
#: times in a hundred.
SOLVER = Behaviour(probability=0.6, judge_separation=1.0, seed=1)
UPSTREAMS: Mapping[str, Behaviour] = {
    "n honoured": replace(SOLVER, latency=LATENCY),
    "n refused": replace(SOLVER, latency=LATENCY, n="refused"),
    "lognormal latency": replace(SOLVER, latency=LATENCY, sigma=0.6),
    "lognormal, n refused": replace(SOLVER, latency=LATENCY, sigma=0.6, n="refused"),
}
#: For an operator who does not wait for the slowest third of the samples.
HASTY = ("--patience", "0")
_ASKERS = 8


def walls(theirs: Make, effort: Effort) -> Iterator[Row]:
    """Wall time at a latency of 200 ms; rounds and choices as the model counts them."""
    for nth, (upstream, behaviour) in enumerate(UPSTREAMS.items()):
        times: dict[str, float] = {}
        hasty: dict[str, float] = {}
        with (
            SimulatorThread(behaviour, keep_bodies=False) as model,
            PeerModel(model.url) as translated,
            optictl(model.url) as one,
            optictl(model.url, *HASTY) as another,
            theirs(translated.url) as peer,
            ProxyClient(one.url) as ours,
            ProxyClient(another.url) as hurried,
            ProxyClient(peer.url) as other,
        ):
            for client in (ours, hurried, other):
                client.chat(chat("moa-sim"))
            for slug in APPROACHES if nth else (*PROMPTS, *APPROACHES):
                slower, last = _walled(other, model, slug, effort.repeats)
                wall, first = _walled(ours, model, slug, effort.repeats)
                name = f"wall of {slug}, {upstream}"
                if not (wall and slower):
                    yield Row(name, first, last)
                    continue
                if slug in APPROACHES:
                    times[slug] = slower / wall
                yield Row(name, first, last, slower / wall)
                if behaviour.sigma and slug in times:
                    wall, _ = _walled(hurried, model, slug, effort.repeats)
                    hasty[slug] = slower / wall
        for found, how in ((times, ""), (hasty, f", {' '.join(HASTY)}")):
            if found:
                least = min(found, key=found.__getitem__)
                name = f"their wall over ours, {upstream}, geometric mean of {len(found)}{how}"
                told = f"least {found[least]:.2f} ({least})"
                yield Row(name, told, "", geometric_mean(found.values()))


def accuracy(theirs: Make, effort: Effort) -> Iterator[Row]:
    """Answers to the same questions, of the same model, rated by judges that are alike."""
    wrong = [(1 - SOLVER.probability) / len(SOLVER.distractors)] * len(SOLVER.distractors)
    notes = {
        slug: f" (exact vote of {n}: {exact_plurality(SOLVER.probability, wrong, n):.2f})"
        for slug, n in (("self_consistency", 5), ("majority_voting", 8))
    }
    # Latencies that differ, so that a vote can end before its end.
    behaviour = replace(SOLVER, latency=0.05, sigma=0.6)
    with (
        SimulatorThread(behaviour, keep_bodies=False) as model,
        PeerModel(model.url) as translated,
        optictl(model.url) as one,
        theirs(translated.url) as peer,
        ProxyClient(one.url) as ours,
        ProxyClient(peer.url) as other,
    ):
        for slug in (*PROMPTS, *APPROACHES):
            last = _graded(other, model, slug, effort.questions, {})
            for options in [{}, WIDER[slug]] if slug in WIDER else [{}]:
                first = _graded(ours, model, slug, effort.questions, options)
                name = f"accuracy of {_named(slug, options)}{notes.get(slug, '')}"
                yield Row(name, first.told, last.told, first.beside(last))


@dataclass(frozen=True, slots=True)
class Graded:
    """The share of right answers to so many questions, and what one of them took."""

    right: float
    questions: int
    choices: float
    cancelled: float = 0.0

    @property
    def error(self) -> float:
        """One standard error."""
        return sqrt(self.right * (1 - self.right) / self.questions)

    @property
    def told(self) -> str:
        ended = f" ({self.cancelled:.1f} cancelled)" if self.cancelled else ""
        return f"{self.right:.2f} ± {self.error:.2f}, {self.choices:.1f} choices{ended}"

    def beside(self, other: Graded) -> str:
        """What is worse than at the other, if anything: two standard errors are chance."""
        worse = ["less right"] * (self.right < other.right - 2 * other.error)
        worse += ["more choices"] * (self.choices > other.choices)
        return ", ".join(worse) or "as good or better"


def _named(slug: str, options: Mapping[str, Any]) -> str:
    return ", ".join([slug, *(f"{name}={value}" for name, value in options.items())])


def _walled(
    client: ProxyClient, model: SimulatorThread, slug: str, repeats: int
) -> tuple[float, str]:
    """The mean wall time, 0 where it has failed, and what to tell of it."""
    seen: list[tuple[float, int, int]] = []
    for nth, question in enumerate(_questions(repeats)):
        model.reset()
        # Latencies are drawn anew for each question, and are the same for both sides.
        model.behave(seed=nth)
        began = time.perf_counter()
        try:
            client.chat(_asking(slug, question, {}))
        except OptictlError:
            return 0.0, "fails"
        wall = time.perf_counter() - began
        _wait_for_idleness(model)
        seen.append((wall, model.log.rounds, model.log.choices))
    wall, rounds, choices = map(fmean, zip(*seen, strict=True))
    return wall, f"{wall:.2f} s, {_mean(rounds, 'round')}, {_mean(choices, 'choice')}"


def _graded(
    client: ProxyClient,
    model: SimulatorThread,
    slug: str,
    questions: int,
    options: Mapping[str, Any],
) -> Graded:
    model.reset()
    with ThreadPoolExecutor(_ASKERS) as askers:
        right = sum(askers.map(partial(_right, client, slug, options), _questions(questions)))
    _wait_for_idleness(model)
    log = model.log
    return Graded(right / questions, questions, log.choices / questions, log.dropped / questions)


def _right(client: ProxyClient, slug: str, options: Mapping[str, Any], question: str) -> bool:
    answer = client.chat(_asking(slug, question, options))
    text = answer["choices"][0]["message"]["content"] or ""
    return same(find_answer(text), gold(question))


def _asking(slug: str, question: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    body = {"model": f"{slug}-sim", "messages": [{"role": "user", "content": question}]}
    return {**body, "optillm_options": options} if options else body


def _mean(number: float, noun: str) -> str:
    return f"{number:.3g} {noun}{'' if number == 1 else 's'}"


def _questions(count: int) -> Sequence[str]:
    return [f"What is {number + 17} * 23 + 5?" for number in range(count)]


def _wait_for_idleness(model: SimulatorThread) -> None:
    while model.log.inflight:
        time.sleep(0.01)
