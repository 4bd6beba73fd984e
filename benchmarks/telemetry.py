"""What telemetry costs: a service with all of it turned on, one with nothing, one without any.

``python -m benchmarks.telemetry`` is ``optictl`` with a word in front: ``told``, or ``untold``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from math import sqrt
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import proxy.app
from benchmarks.figures import Figure, ms
from benchmarks.load import Load, chat, measure
from benchmarks.proc import cpu_seconds
from benchmarks.processes import Proxy, Upstream
from optictl.cli import main
from proxy.board import Board
from proxy.chat import Chat
from proxy.edge.metrics import MetricViews
from proxy.ensembles import Team
from proxy.pipeline import Branch
from proxy.registry import discover
from proxy.run.ledger import Ledger
from proxy.run.plan import Plan
from proxy.settings import Limits, Settings
from proxy.telemetry.counters import Counters
from proxy.telemetry.record import Record, Telemetry, Trace
from proxy.wire.request import parse_chat

_ROUNDS = 7
#: How often all of them are started, and measured in turns. The machine's speed changes from one
#: second to the next by more than what is looked for, and so does a service's from one start to
#: the next: a service and its twin say by how much two that are alike differ.
_STARTS = 6
_TURNS = 8
_SIDES = ("none", "default", "twin", "everything")
#: Seconds until all that waits to be written is.
_WRITTEN = 0.5
_CONNECTIONS = 4
_RECORDS = 20_000


class _Service(Proxy):
    """All of them are started alike: what is loaded before the fork has its price too."""

    def __init__(self, base_url: str, *flags: str, told: bool = True) -> None:
        super().__init__(base_url, *flags)
        program = [sys.executable, "-m", "benchmarks.telemetry", "told" if told else "untold"]
        self._command = [*program, *self._command[self._command.index("serve") :]]


def telemetry(seconds: float) -> Iterator[Figure]:
    """CPU of a plain request, what is written for it later included."""
    starts = [_started(seconds / 6) for _ in range(_STARTS)]
    none, default, twin, everything = ([each[side] for each in starts] for side in _SIDES)
    usual = [mean(pair) for pair in zip(default, twin, strict=True)]
    for what, more, less, said, promise in (
        ("default", usual, none, "without any", ""),
        ("everything", everything, usual, "with nothing turned on", "≤ 5 %"),
        ("a twin", twin, default, "of one like it", ""),
    ):
        shares = [each / other - 1 for each, other in zip(more, less, strict=True)]
        share, error = mean(shares), stdev(shares) / sqrt(_STARTS)
        yield Figure(
            f"telemetry, {what}: CPU of a request",
            f"{share:+.1%} ± {error:.1%} over {ms(median(less))} {said}",
            promise,
            {"more_share": share, "standard_error": error, "cpu_ms": 1000 * median(more)},
        )
    cost, bare = _counting(), median(none)
    yield Figure(
        "metrics: CPU of a request",
        f"{1e6 * cost:.1f} µs, {cost / bare:.1%} of one",
        "≤ 2 %",
        {"metrics_us": 1e6 * cost, "share": cost / bare},
    )


def _started(seconds: float) -> dict[str, float]:
    """CPU seconds of a request by side, all sides in turns, so that they see the same machine."""
    with ExitStack() as running:
        upstream = running.enter_context(Upstream())
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        services = {
            "none": _Service(upstream.url, told=False),
            "default": _Service(upstream.url),
            "twin": _Service(upstream.url),
            "everything": _Service(upstream.url, *_everything(folder)),
        }
        spent: dict[str, float] = {}
        for side, service in services.items():
            running.enter_context(service)
            measure(Load(f"{service.url}/v1", _CONNECTIONS, seconds))
            time.sleep(_WRITTEN)
            spent[side] = -cpu_seconds(service.pids)
        done = dict.fromkeys(services, 0)
        for turn in range(_TURNS):
            # Who comes first is no advantage to anybody.
            first = turn % len(_SIDES)
            for side in (*_SIDES[first:], *_SIDES[:first]):
                url = f"{services[side].url}/v1"
                done[side] += measure(Load(url, _CONNECTIONS, seconds)).total
        time.sleep(_WRITTEN)
        return {
            side: (spent[side] + cpu_seconds(service.pids)) / done[side]
            for side, service in services.items()
        }


def _everything(folder: Path) -> list[str]:
    return [
        *("--log-format", "json", "--log-conversations"),
        *("--conversation-log-dir", str(folder / "conversations")),
        *("--trace-log", str(folder / "traces.jsonl"), "--trace-text"),
        *("--usage-file", str(folder / "usage.jsonl")),
    ]


def _counting() -> float:
    """Seconds that counting one plain request takes, without the rest of the service."""
    settings, board = Settings(base_url="http://127.0.0.1:9/v1"), Board()
    metrics = MetricViews(settings, discover(), board, Counters(), lambda: frozenset({"sim"}))
    metrics.adopt(board.row(()))
    record = _record()
    times = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        for _ in range(_RECORDS):
            metrics.ended(record)
        times.append((time.process_time() - began) / _RECORDS)
    return median(times)


def _record() -> Record:
    """One call of `none`, answered."""
    ledger = Ledger()
    call = ledger.begin("final", "sim", 1, approach="none")
    ledger.sent(call, "upstream")
    ledger.end(call, "ok", {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29})
    request = parse_chat(chat())
    plan = Plan(
        request=request, chat=Chat(messages=tuple(request.messages)), base="sim",
        team=Team.of("sim"), branches=(Branch("none", None),), choices=1, limits=Limits(),
        seconds=60.0,
    )  # fmt: skip
    return Record(
        id="req", path="/v1/chat/completions", began=time.time(), seconds=0.002, status=200,
        code="", stream=False, tenant="", trace=Trace.begin(), plan=plan, ledger=ledger,
        usage=ledger.total_usage(),
    )  # fmt: skip


def _nobody(*_: Any, **__: Any) -> Telemetry:
    return Telemetry()


def _main() -> None:
    # Workers inherit it by the fork.
    if sys.argv.pop(1) == "untold":
        proxy.app.Telemetry = _nobody  # type: ignore[assignment,misc]
    main()


if __name__ == "__main__":
    _main()
