"""The waterfall: what a reader can tell from its lines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optictl.waterfall import CROSS, LOST, STREAMING, WAITING, Call, waterfall
from proxy.run.ledger import Ledger

DRAWN = WAITING + STREAMING + LOST + CROSS

CALL = Call(
    role="proposer",
    model="sim",
    round=1,
    choices=1,
    start=0.0,
    first=0.25,
    end=0.25,
    outcome="ok",
    prompt_tokens=21,
    completion_tokens=40,
)


def bar_of(line: str) -> tuple[int, int]:
    """Where a line's bar begins and ends."""
    drawn = [i for i, character in enumerate(line) if character in DRAWN]
    return drawn[0], drawn[-1] + 1


#: The proxy tells times in tenths of a millisecond.
moments = st.integers(0, 10**6).map(lambda ticks: ticks / 10_000)
calls = st.builds(
    lambda start, wait, stream, **members: Call(
        start=start,
        first=None if wait is None else start + wait,
        end=None if stream is None else start + (wait or 0.0) + stream,
        **members,
    ),
    start=moments,
    wait=st.none() | moments,
    stream=st.none() | moments,
    role=st.sampled_from(["final", "proposer", "aggregator"]),
    model=st.text("abc/-:.", min_size=1, max_size=60),
    round=st.integers(1, 40),
    choices=st.integers(1, 9),
    outcome=st.sampled_from(["ok", "running", "cancelled", "upstream_invalid_response"]),
    prompt_tokens=st.integers(0, 10**6),
    completion_tokens=st.integers(0, 10**6),
)


def test_what_a_reader_sees() -> None:
    shown = waterfall(
        [
            CALL,
            replace(CALL, end=0.4, first=None, outcome="cancelled", prompt_tokens=0,
                    completion_tokens=0),
            replace(CALL, role="final", round=2, start=0.5, first=0.75, end=1.0, prompt_tokens=98),
        ],
        width=89,
    )  # fmt: skip
    assert shown == [
        "round  role      model  0 s                               1.00 s   ms   tokens  outcome",
        "    1  proposer  sim    ━━━━━━━━━━                                250  21 → 40  ok",
        "    1  proposer  sim    ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌✗                          400        –  cancelled",
        "    2  final     sim                        ━━━━━━━━━━██████████  500  98 → 40  ok",
    ]


def test_without_calls_there_is_nothing_to_show() -> None:
    assert waterfall([]) == []


@given(st.lists(calls, min_size=1, max_size=12), st.integers(1, 200))
def test_every_call_has_a_line_and_a_bar(made: list[Call], width: int) -> None:
    heading, *lines = waterfall(made, width=width)
    assert heading.split()[:3] == ["round", "role", "model"]
    assert len(lines) == len(made)
    for call, line in zip(made, lines, strict=True):
        assert line.split()[0] == str(call.round)
        assert line.split()[1] == call.role
        begins, ends = bar_of(line)
        assert begins < ends
        assert line.rstrip().endswith(call.outcome)


@given(st.lists(calls, min_size=1, max_size=12), st.integers(110, 200))
def test_no_line_is_wider_than_asked_where_there_is_room(made: list[Call], width: int) -> None:
    assert all(len(line) <= width for line in waterfall(made, width=width))


@given(st.lists(calls, min_size=2, max_size=12))
def test_bars_stand_in_the_order_of_time(made: list[Call]) -> None:
    finished = [call for call in made if call.end is not None]
    lines = waterfall(made)[1:]
    bars = [bar_of(line) for line in lines]
    for call, (begins, _) in zip(made, bars, strict=True):
        for before in finished:
            # One cell may be shared: every call shows, however short it was.
            if before.end is not None and before.end <= call.start:
                ended = bars[made.index(before)][1]
                assert begins >= ended - 1


def test_a_streamed_answer_shows_when_it_began_to_arrive() -> None:
    streamed = replace(CALL, first=0.25, end=1.0)
    line = waterfall([streamed])[1]
    waited, arrived = line.count(WAITING), line.count(STREAMING)
    assert waited > 0
    assert 2.5 < arrived / waited < 3.5


def test_an_answer_in_one_piece_is_no_stream() -> None:
    assert STREAMING not in waterfall([CALL])[1]


@pytest.mark.parametrize("outcome", ["cancelled", "upstream_timeout", "failed"])
def test_a_lost_call_is_drawn_otherwise(outcome: str) -> None:
    line = waterfall([replace(CALL, outcome=outcome)])[1]
    assert WAITING not in line
    assert CROSS in line
    assert outcome in line


def test_a_running_call_grows_with_the_clock() -> None:
    done = replace(CALL, start=0.0, end=0.5)
    running = replace(CALL, round=2, start=0.5, first=None, end=None, outcome="running")
    early, late = (waterfall([done, running], now=now) for now in (0.6, 2.0))
    assert early[2].count(WAITING) < late[2].count(WAITING)
    assert "100" in early[2]
    assert "1,500" in late[2]


def test_several_choices_of_one_call_and_a_long_name() -> None:
    line = waterfall([replace(CALL, choices=3, model="openai/gpt-4o-mini-2024-07-18")])[1]
    assert "proposer ×3" in line
    assert "openai/gpt-4o-mini-…" in line


def test_a_call_is_read_from_what_the_proxy_traces() -> None:
    ledger = Ledger()
    record = ledger.begin("judge", "sim", 2)
    ledger.sent(record, "upstream")
    running = Call.of(record.as_json())
    ledger.end(record, "ok", {"prompt_tokens": 3, "completion_tokens": 4})
    ended = Call.of(record.as_json())
    assert running.end is None
    assert running.key == ended.key
    assert (ended.role, ended.round, ended.outcome) == ("judge", 2, "ok")
    assert (ended.prompt_tokens, ended.completion_tokens) == (3, 4)


def test_members_that_we_do_not_know_do_not_matter() -> None:
    record: dict[str, Any] = {**Ledger().begin("judge", "sim", 2).as_json(), "provider": "lab"}
    assert Call.of(record).role == "judge"
