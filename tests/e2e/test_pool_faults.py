"""Providers that fail under load: every request ends well or says why, and nobody is blamed for it
who is not at fault.

Each test lists what may go wrong. Wherever another provider was well, that is only a stream of
which the client has seen a part.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from conftest import chat_body, eventually
from pool_load import (
    DEADLINE,
    MIX,
    SILENCE,
    USUAL,
    Ask,
    Load,
    Outcome,
    Pooled,
    provider,
    question_of,
    serving,
    three,
    used_again,
    write_config,
)
from raw_http import CHAT

from optictl.simulator import Call, Fault, SimulatorThread
from optictl.simulator.faults import ALWAYS, JSON_ONLY, STATUSES, STREAM_ONLY


def broke_off(outcome: Outcome) -> bool:
    return outcome.broke_off


def shares(pooled: Pooled, count: int) -> list[int]:
    """How many of so many requests, one after the other, each provider gets."""
    before = [sim.log.calls for sim in pooled.sims.values()]
    for _ in range(count):
        answer = httpx.post(pooled.service.url + CHAT, json=chat_body(), timeout=30.0)
        assert answer.status_code == 200
    return [sim.log.calls - had for sim, had in zip(pooled.sims.values(), before, strict=True)]


def test_a_provider_dies_and_comes_back(tmp_path: Path) -> None:
    with three(tmp_path) as pooled:
        with Load(pooled.service) as load:
            load.more(30)
            pooled.sims["a"].stop()
            load.more(80)
            pooled.sims["a"].start()
            assert used_again(pooled.sims["a"])
            load.more(30)
        pooled.check(load.outcomes, excused=broke_off, unheard=True)
        assert "provider=a is left out (all its models)" in pooled.service.log
        assert "provider=b is left out" not in pooled.service.log
        assert "provider=c is left out" not in pooled.service.log
        assert shares(pooled, 30) == [10, 10, 10]


def test_a_provider_that_hangs_after_its_headers(tmp_path: Path) -> None:
    with three(tmp_path, silence=SILENCE) as pooled:
        with Load(pooled.service) as load:
            load.more(30)
            pooled.sims["a"].behave(faults=(Fault("hang_after_headers"),))
            load.more(80)
            pooled.sims["a"].behave(faults=())
            assert used_again(pooled.sims["a"])
            load.more(30)
        pooled.check(load.outcomes)
        assert "provider=a is left out (this model)" in pooled.service.log
        assert shares(pooled, 30) == [10, 10, 10]


def test_a_provider_that_resets_in_the_middle(tmp_path: Path) -> None:
    """Of a JSON answer, or of a stream, once some of it was said."""
    with three(tmp_path) as pooled:
        with Load(pooled.service) as load:
            load.more(30)
            pooled.sims["a"].behave(faults=(Fault("stream_reset"),))
            assert eventually(
                lambda: any(each.broke_off and not each.right for each in load.outcomes)
            )
            pooled.sims["a"].behave(faults=(Fault("truncated"), Fault("stream_reset")))
            load.more(80)
            pooled.sims["a"].behave(faults=())
            assert used_again(pooled.sims["a"])
            load.more(30)
        pooled.check(load.outcomes, excused=broke_off)
        broken = [outcome for outcome in load.outcomes if not outcome.right]
        assert broken
        assert {outcome.code for outcome in broken} == {"upstream_unreachable"}
        struck = Counter(call.fault for call in pooled.sims["a"].log.records)
        # Every one of them is told, and none but those.
        assert len(broken) == struck["stream_reset"]
        assert struck["truncated"]
        assert shares(pooled, 30) == [10, 10, 10]


@pytest.mark.parametrize("kind", ["reset", "no_choices"])
def test_a_provider_that_breaks_off_before_it_says_anything(tmp_path: Path, kind: str) -> None:
    with three(tmp_path) as pooled:
        with Load(pooled.service) as load:
            load.more(20)
            pooled.sims["a"].behave(faults=(Fault(kind),))
            load.more(80)
            pooled.sims["a"].behave(faults=())
            assert used_again(pooled.sims["a"])
            load.more(20)
        pooled.check(load.outcomes)


def test_a_provider_with_too_much_to_do_is_left_alone_for_as_long_as_it_asks(
    tmp_path: Path,
) -> None:
    with three(tmp_path) as pooled:
        a = pooled.sims["a"]
        with Load(pooled.service) as load:
            load.more(30)
            a.behave(faults=(Fault(429, retry_after=1.0),))
            load.more(200)
            a.behave(faults=())
            assert used_again(a)
            load.more(30)
        pooled.check(load.outcomes)
        refused = [call.start for call in a.log.records if call.status == 429]
        # What was under way when the first was refused comes at once; then once a second at most.
        rushes = [at for before, at in pairwise([0.0, *refused]) if at - before > 0.5]
        assert len(rushes) >= 2
        assert all(later - at >= 0.9 for at, later in pairwise(rushes))
        # An overload is no failure.
        assert "is left out" not in pooled.service.log
        assert shares(pooled, 30) == [10, 10, 10]


def test_a_bad_request_is_the_fault_of_the_client(tmp_path: Path) -> None:
    statuses = {"bad": 400, "large": 413, "odd": 422}
    with three(tmp_path) as pooled:
        a = pooled.sims["a"]
        for model, status in statuses.items():
            a.behave(model=model, faults=(Fault(status),))
        # A provider that lacks a model is not asked for it again, and is well otherwise.
        a.behave(model="elsewhere", faults=(Fault(404),))
        more = [Ask(model, stream) for model in statuses for stream in (False, True)]
        more += [Ask("bon-bad"), Ask("moa-bad", stream=True), Ask("elsewhere")]
        with Load(pooled.service, [*MIX, *more]) as load:
            load.more(200)

        def refused(outcome: Outcome) -> bool:
            status = statuses.get(outcome.ask.model)
            # A stream's head is held for a second only; after that an event says it.
            told = outcome.status == status or (outcome.ask.stream and outcome.status == 200)
            return told and outcome.code == f"simulated_{status}"

        pooled.check(load.outcomes, excused=refused)
        assert {o.status for o in load.outcomes if refused(o)} - {200} == set(statuses.values())
        # Nobody else was asked the same again.
        requests = Counter(outcome.ask.model for outcome in load.outcomes)
        calls = Counter(call.model for sim in pooled.sims.values() for call in sim.log.records)
        assert [calls[model] for model in ("large", "odd")] == [
            requests[model] for model in ("large", "odd")
        ]
        assert "is left out" not in pooled.service.log
        assert "is back" not in pooled.service.log
        assert shares(pooled, 30) == [10, 10, 10]


def test_all_providers_die_and_come_back(tmp_path: Path) -> None:
    with three(tmp_path) as pooled:
        with Load(pooled.service) as load:
            load.more(30)
            died = time.monotonic()
            for sim in pooled.sims.values():
                sim.stop()
            load.more(200)
            for sim in pooled.sims.values():
                sim.start()
            back = time.monotonic()
            for sim in pooled.sims.values():
                assert used_again(sim)
            well = time.monotonic()
            load.more(30)
        pooled.check(
            load.outcomes,
            excused=lambda o: o.ended > died and o.began < well,
            unheard=True,
        )
        failed = [outcome for outcome in load.outcomes if not outcome.right]
        assert {o.code for o in failed if not o.broke_off} <= {
            "upstream_unreachable",
            "no_healthy_providers",
        }
        for outcome in failed:
            if outcome.code == "no_healthy_providers" and outcome.status != 200:
                assert outcome.status == 503
                assert outcome.retry_after is not None
        # While all were dead nobody had to wait to hear it.
        known_dead = [o for o in failed if died + 0.5 < o.began < o.ended < back]
        assert known_dead
        assert "no_healthy_providers" in {o.code for o in known_dead}
        assert shares(pooled, 30) == [10, 10, 10]


def test_a_provider_whose_name_cannot_be_resolved(tmp_path: Path) -> None:
    with SimulatorThread(USUAL) as b, SimulatorThread(USUAL) as c:
        config = write_config(
            tmp_path / "proxy_config.yaml",
            {
                "a": provider("http://something.invalid:1/v1"),
                "b": provider(b),
                "c": provider(c),
            },
        )
        flags = ("--proxy-config", str(config), "--request-timeout", str(DEADLINE))
        with serving(tmp_path, *flags) as service:
            with Load(service) as load:
                load.more(200)
            pooled = Pooled(service, {"b": b, "c": c})
            pooled.check(load.outcomes, unheard=True)
            assert "provider=a is left out (all its models)" in service.log
            assert "provider=b is left out" not in service.log
            trouble = [c["outcome"] for o in load.outcomes for c in o.trace if c["provider"] == "a"]
            assert set(trouble) <= {"upstream_unreachable"}
            # One call a second tries it again and goes on to the next.
            assert min(shares(pooled, 10)) >= 3


def test_bodies_that_come_byte_by_byte(tmp_path: Path) -> None:
    """Such a body is never silent, and never there."""
    with three(tmp_path, silence=SILENCE) as pooled:
        with Load(pooled.service) as load:
            load.more(30)
            pooled.sims["a"].behave(faults=(Fault("slow_loris"),), chunk_interval=0.05)
            load.more(80)
            pooled.sims["a"].behave(faults=(), chunk_interval=USUAL.chunk_interval)
            assert used_again(pooled.sims["a"])
            load.more(30)
        pooled.check(load.outcomes, excused=broke_off)
        assert "provider=a is left out (this model)" in pooled.service.log
        assert shares(pooled, 30) == [10, 10, 10]


KINDS = sorted(STATUSES | ALWAYS | JSON_ONLY | STREAM_ONLY, key=str)
#: What the providers say is the client's own fault.
BLAMING = {f"simulated_{status}" for status in (400, 413, 422)}
#: After one of these a provider, or its model, is left alone for a second: they say that it would
#: answer the next call in the same way.
CERTAIN = {401, 403, 408, 429, 503, "hang", "hang_after_headers", "slow_loris"}


@dataclass(frozen=True, slots=True)
class Struck:
    """The calls that a fault has struck, by provider."""

    calls: Mapping[str, Sequence[Call]]

    @classmethod
    def of(cls, pooled: Pooled) -> Struck:
        return cls(
            {
                name: [call for call in sim.log.records if call.fault is not None]
                for name, sim in pooled.sims.items()
            }
        )

    @property
    def total(self) -> int:
        return sum(map(len, self.calls.values()))

    def excuse(self, outcome: Outcome) -> bool:
        """Whether a request may well not have been answered right."""
        kinds = {call.fault for calls in self.calls.values() for call in calls if of(outcome, call)}
        if outcome.code in BLAMING:
            return outcome.status < 500 and bool(kinds & {400, 413, 422})
        if outcome.code is None:
            # A short or an empty answer is passed on as what it is; a slow one as far as it comes.
            slow = outcome.finish == "length" and bool(kinds & {"slow_loris"})
            return slow or bool(kinds & {"length", "null_content"})
        return (outcome.broke_off and bool(kinds)) or all(
            any(of(outcome, call) or lately(outcome, call) for call in calls)
            for calls in self.calls.values()
        )


def of(outcome: Outcome, call: Call) -> bool:
    """Whether it was a call of that request."""
    return question_of(call.body) == outcome.question


def lately(outcome: Outcome, call: Call) -> bool:
    """Whether its provider was left alone for it when the request came."""
    return call.fault in CERTAIN and outcome.began - SILENCE - 2.0 < call.start < outcome.ended


def test_one_call_in_twenty_meets_any_of_all_faults(tmp_path: Path) -> None:
    with three(tmp_path, silence=SILENCE) as pooled:
        for number, sim in enumerate(pooled.sims.values()):
            chances = tuple(
                Fault(kind, probability=0.05 / len(KINDS), retry_after=1.0) for kind in KINDS
            )
            sim.behave(faults=chances, seed=number)
        with Load(pooled.service) as load:
            while Struck.of(pooled).total <= 75:
                load.more(50)
        struck = Struck.of(pooled)
        pooled.check(load.outcomes, excused=struck.excuse, unheard=True)
        for sim in pooled.sims.values():
            sim.behave(faults=())
        assert eventually(lambda: shares(pooled, 30) == [10, 10, 10])
