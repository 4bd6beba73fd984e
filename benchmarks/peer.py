"""OptiLLM 0.3.12 and we, under the same loads, before the same simulated model.

``make bench-peer``: both as their operators run them, with default settings, measured in turns so
that both see the same machine. It asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import sqrt
from statistics import median

from benchmarks.figures import aligned, counted, ms
from benchmarks.load import Load, Measured, chat, measure
from benchmarks.plain_scores import PlainScores
from benchmarks.proc import Meanwhile, cpu_seconds, rss
from benchmarks.processes import NotStartedError, Proxy, Upstream
from optictl.client import ProxyClient
from optictl.errors import OptictlError
from optictl.simulator import Behaviour, SimulatorThread, gold
from optictl.simulator.questions import find_answer
from optictl.simulator.replies import same
from proxy.voting import exact_plurality

PEER = "OptiLLM 0.3.12"
APPROACHES = ("none", "re2", "cot_reflection", "bon", "moa", "self_consistency", "rto")
LATENCY = 0.2
_HEADING = ("figure", "optictl", PEER, "better")
_CONNECTIONS = (1, 16, 64)
_NOBODY = "http://127.0.0.1:9/v1"
_MB = 1_000_000
_SETTLE = 1.0
_ASKERS = 8
_PATIENCE = 30.0
_REST = 0.3
#: Right three times out of five, at latencies that differ, so that a vote can end before its end.
_SOLVER = Behaviour(probability=0.6, latency=0.05, sigma=0.6, seed=1)
#: An installed package has its bytecode compiled: here the first start, which is not counted, does.
_COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done for a figure."""

    #: Of one run of the load generator, behind half as many until its queue is as long as it gets.
    seconds: float
    rounds: int
    starts: int
    repeats: int
    questions: int


FULL = Effort(seconds=4.0, rounds=3, starts=3, repeats=5, questions=100)
QUICK = Effort(seconds=1.0, rounds=1, starts=1, repeats=1, questions=20)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both; ``better`` says how many times better ours is, where that has sense."""

    name: str
    ours: str
    theirs: str
    better: float | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        times = "" if self.better is None else f"{self.better:.1f} ×"
        return self.name, self.ours, self.theirs, times


class Optillm(Proxy):
    """OptiLLM on a free loopback port while the block lasts.

    Its key comes from OPENAI_API_KEY. OPTILLM_API_KEY, which its manual names for clients' keys,
    would turn it into a server of local models.
    """

    def __init__(self, program: str, base_url: str) -> None:
        super().__init__(base_url, env={**_COMPILED, "OPENAI_API_KEY": "x"}, within=300.0)
        self._command = [
            program, "--host", "127.0.0.1", "--port", str(self.port), "--base-url", base_url,
        ]  # fmt: skip


#: Makes a service in front of a base URL.
Make = Callable[[str], Proxy]


def optictl(base_url: str, *flags: str) -> Proxy:
    """Ours, as `Optillm` is theirs."""
    return Proxy(base_url, *flags, env=_COMPILED)


def start(theirs: Make, effort: Effort) -> Iterator[Row]:
    """From exec to the first answer of /health, and what is held then."""
    (ours_in, ours_held), (theirs_in, theirs_held) = (
        _started(make, effort.starts) for make in (optictl, theirs)
    )
    yield Row("start to /health", f"{ours_in:.2f} s", f"{theirs_in:.2f} s", theirs_in / ours_in)
    yield _memory("resident memory, idle", ours_held, theirs_held)


def passthrough(theirs: Make, effort: Effort) -> Iterator[Row]:
    """``none`` before a model that answers at once; ours with one worker and with two."""
    with (
        Upstream() as upstream,
        optictl(upstream.url) as one,
        optictl(upstream.url, "--workers", "2") as two,
        theirs(upstream.url) as peer,
    ):
        for service in (one, two, peer):
            measure(Load(f"{service.url}/v1", _ASKERS))
        for connections in _CONNECTIONS:
            runs: dict[Proxy, list[tuple[Measured, float]]] = {one: [], two: [], peer: []}
            for _ in range(effort.rounds):
                for service, found in runs.items():
                    found.append(_loaded(service, upstream, connections, effort.seconds))
            (rate, first), (faster, second), (slow, last) = map(_told, runs.values())
            name = f"passthrough, {counted(connections, 'connection')}"
            yield Row(name, first, last, rate / slow)
            yield Row(f"{name}, 2 workers", second, last, faster / slow)
        yield _memory("resident memory after that", rss(one.pids), rss(peer.pids))


def rounds(theirs: Make, effort: Effort) -> Iterator[Row]:
    """Wall time at a latency of 200 ms; rounds and choices as the model counts them."""
    with (
        SimulatorThread(Behaviour(latency=LATENCY), keep_bodies=False) as model,
        optictl(model.url) as one,
        theirs(model.url) as peer,
        ProxyClient(one.url) as ours,
        ProxyClient(peer.url) as other,
    ):
        for client in (ours, other):
            client.chat(chat("moa-sim"))
        for slug in APPROACHES:
            (wall, first), (slower, last) = (
                _walled(client, model, slug, effort.repeats) for client in (ours, other)
            )
            yield Row(f"wall of {slug} at {ms(LATENCY)}", first, last, slower / wall)


def accuracy(theirs: Make, effort: Effort) -> Iterator[Row]:
    """Answers of a model that is right with p = 0.6: the same samples for both, judges alike."""
    wrong = [0.4 / len(_SOLVER.distractors)] * len(_SOLVER.distractors)
    notes = {"self_consistency": f" (exact vote of 5: {exact_plurality(0.6, wrong, 5):.2f})"}
    with (
        SimulatorThread(_SOLVER, keep_bodies=False) as model,
        PlainScores(model.url) as scores,
        optictl(model.url) as one,
        theirs(scores.url) as peer,
        ProxyClient(one.url) as ours,
        ProxyClient(peer.url) as other,
    ):
        for slug in APPROACHES:
            first, last = (
                _graded(client, model, slug, effort.questions) for client in (ours, other)
            )
            yield Row(f"accuracy of {slug}{notes.get(slug, '')}", first, last)


def _started(make: Make, starts: int) -> tuple[float, float]:
    """Median seconds, and bytes."""
    times: list[float] = []
    held: list[float] = []
    for number in range(starts + 1):
        with make(_NOBODY) as service:
            if number:
                times.append(service.started_in)
                time.sleep(_SETTLE)
                held.append(rss(service.pids))
    return median(times), median(held)


def _memory(name: str, ours: float, theirs: float) -> Row:
    return Row(name, f"{ours / _MB:.0f} MB", f"{theirs / _MB:.0f} MB", theirs / ours)


def _loaded(
    service: Proxy, upstream: Upstream, connections: int, seconds: float
) -> tuple[Measured, float]:
    """What the load generator saw, and CPU seconds a request."""
    called, spent = upstream.calls()["calls"], cpu_seconds(service.pids)
    load = Load(f"{service.url}/v1", connections, seconds, warm_up=seconds / 2)
    measured = measure(load)
    spent = _rested(service) - spent
    return measured, spent / max(1, upstream.calls()["calls"] - called)


def _rested(service: Proxy) -> float:
    """Wait until what its clients have left behind is worked off; the CPU seconds it has taken."""
    end = time.monotonic() + _PATIENCE
    before, now = -1.0, cpu_seconds(service.pids)
    while before != now and time.monotonic() < end:
        time.sleep(_REST)
        before, now = now, cpu_seconds(service.pids)
    return now


def _told(runs: Sequence[tuple[Measured, float]]) -> tuple[float, str]:
    rate = median(measured.rate for measured, _ in runs)
    p50 = median(measured.p50 for measured, _ in runs)
    cost = median(cost for _, cost in runs)
    failed = sum(sum(measured.errors.values()) for measured, _ in runs)
    errors = f", {failed} errors" if failed else ""
    return rate, f"{rate:,.0f}/s, p50 {ms(p50)}, CPU {ms(cost)}{errors}"


def _walled(
    client: ProxyClient, model: SimulatorThread, slug: str, repeats: int
) -> tuple[float, str]:
    walls: list[float] = []
    for _ in range(repeats):
        model.reset()
        began = time.perf_counter()
        client.chat(chat(f"{slug}-sim"))
        walls.append(time.perf_counter() - began)
    made, choices = model.log.rounds, model.log.choices
    wall = median(walls)
    return wall, f"{wall:.2f} s, {counted(made, 'round')}, {counted(choices, 'choice')}"


def _graded(client: ProxyClient, model: SimulatorThread, slug: str, questions: int) -> str:
    model.reset()
    asked = [f"What is {number + 17} * 23 + 5?" for number in range(questions)]
    with ThreadPoolExecutor(_ASKERS) as askers:
        right = sum(askers.map(partial(_right, client, slug), asked)) / questions
    while model.log.inflight:
        time.sleep(0.01)
    error = sqrt(right * (1 - right) / questions)
    cancelled = model.log.dropped / questions
    ended = f" ({cancelled:.1f} cancelled)" if cancelled else ""
    return f"{right:.2f} ± {error:.2f}, {model.log.choices / questions:.1f} choices{ended}"


def _right(client: ProxyClient, slug: str, question: str) -> bool:
    messages = [{"role": "user", "content": question}]
    answer = client.chat({"model": f"{slug}-sim", "messages": messages})
    text = answer["choices"][0]["message"]["content"] or ""
    return same(find_answer(text), gold(question))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    asked = _parser().parse_args(arguments)
    program = shutil.which(asked.optillm)
    if program is None:
        print(f"There is no {asked.optillm}: make bench-peer installs it.", file=sys.stderr)
        return 2
    effort = QUICK if asked.quick else FULL
    theirs = partial(Optillm, program)
    meanwhile = Meanwhile()
    rows: list[Row] = []
    try:
        for group in (start, passthrough, rounds, accuracy):
            print(f"measuring {group.__name__} …", file=sys.stderr, flush=True)
            rows += group(theirs, effort)
    except (NotStartedError, OptictlError) as error:
        print(f"The comparison failed: {error}", file=sys.stderr)
        return 1
    print("\n".join(aligned([_HEADING, *(row.cells for row in rows)])))
    print(
        f"\n{counted(len(os.sched_getaffinity(0)), 'core')}, Python {platform.python_version()}, "
        f"Linux {platform.release()}; other work took {meanwhile.share():.0%} of the cores "
        f"meanwhile. {effort.questions} questions, ± is one standard error."
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer", description=__doc__)
    parser.add_argument("--optillm", required=True, help="the program to compare with")
    parser.add_argument("--quick", action="store_true", help="a short run, for a first look")
    return parser


if __name__ == "__main__":
    sys.exit(main())
