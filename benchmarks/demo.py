"""`make demo`: one question through the approaches, on a simulated model, with all their calls."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from benchmarks.processes import NotStartedError, Proxy
from optictl.client import ProxyClient, Said
from optictl.errors import OptictlError
from optictl.live import painted
from optictl.simulator import Behaviour, SimulatorThread, gold
from optictl.simulator.questions import find_answer
from optictl.transcript import Transcript, summary
from optictl.waterfall import Call, waterfall
from proxy.registry import discover

APPROACHES = ("none", "re2", "bon", "moa", "self_consistency")
STREAMED = "moa"
QUESTION = "What is 17 * 23 + 5?"
WIDTH = 100
_IDLE_WITHIN = 2.0

#: Of the seeds with which a single sample is wrong and what is built on several is right; and with
#: which one of five answers comes seven tenths of a second after the others, when it is not needed.
MODEL = Behaviour(
    latency=0.25, sigma=0.4, chunk_interval=0.02, probability=0.6, judge_separation=3.0, seed=6116
)


class DemoError(Exception):
    """What was shown is not what happened."""


def main() -> int:
    """Run the demo; the exit status is 1 where anything failed."""
    console = Console(highlight=False, markup=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    try:
        with SimulatorThread(MODEL, keep_bodies=False) as simulator, Proxy(simulator.url) as proxy:
            _introduce(console, simulator.url, proxy.url)
            with ProxyClient(proxy.url) as client:
                _show_all(console, client)
            _conclude(console, simulator)
    except (DemoError, NotStartedError, OptictlError) as error:
        console.print(Text(f"The demo failed: {error}", style="red"))
        return 1
    return 0


def _show_all(console: Console, client: ProxyClient) -> None:
    uses = {entry.slug: entry.mark.use for entry in discover()}
    for slug in APPROACHES:
        _heading(console, slug, uses[slug])
        began = time.monotonic()
        answer = client.chat(_request(slug, optillm_trace=True))
        seconds = time.monotonic() - began
        optillm = answer["optillm"]
        calls = [Call.of(record) for record in optillm["trace"]]
        text = answer["choices"][0]["message"]["content"]
        _show(console, calls, text, summary(answer["usage"], optillm, seconds))
    _heading(console, f"{STREAMED}, streamed", "The last stage is read while it is written.")
    _show_streamed(console, client)


def _show_streamed(console: Console, client: ProxyClient) -> None:
    transcript, began = Transcript(), time.monotonic()
    first = None
    for event in client.stream(_request(STREAMED)):
        transcript.take(event)
        if first is None and isinstance(event, Said):
            first = time.monotonic() - began
    seconds = time.monotonic() - began
    if first is None:
        raise DemoError("the streamed answer is empty")
    cost = summary(transcript.usage, transcript.optillm, seconds)
    _show(console, transcript.calls, transcript.text, f"{cost} · first token after {first:.2f} s")


def _request(slug: str, **members: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    return {"model": f"{slug}-sim", "messages": messages, **members}


def _introduce(console: Console, upstream: str, proxy: str) -> None:
    right, mean = round(100 * MODEL.probability), round(1000 * MODEL.latency)
    console.print(
        Text(QUESTION, style="bold"),
        f"A simulated model: {right} % of its samples are right, a call takes about {mean} ms.",
        f"With seed {MODEL.seed} its first samples are wrong: see what each approach makes of it.",
        Text(f"model {upstream} · proxy {proxy}", style="dim"),
        sep="\n",
    )


def _heading(console: Console, title: str, text: str) -> None:
    console.print("", Rule(Text(title, style="bold"), align="left"), sep="\n")
    console.print(Text(text, style="dim"))


def _show(console: Console, calls: Sequence[Call], text: str, cost: str) -> None:
    console.print(painted(waterfall(calls, width=console.width)))
    said = find_answer(text)
    right = said == gold(QUESTION)
    verdict = Text("✓ right", "green") if right else Text("✗ wrong", "red")
    console.print(Text("answer ").append(said, "bold").append(" ").append_text(verdict))
    console.print(Text(cost, style="dim"))


def _conclude(console: Console, simulator: SimulatorThread) -> None:
    """The model's own count of the calls; raises `DemoError` where one is left running."""
    end = time.monotonic() + _IDLE_WITHIN
    while simulator.log.inflight:
        if time.monotonic() > end:
            raise DemoError(f"{simulator.log.inflight} calls still run, and nobody waits for them")
        time.sleep(0.01)
    console.print("", Rule(), sep="\n")
    console.print(
        f"{simulator.log.calls} calls reached the model, {simulator.log.dropped} of them hung up "
        "on: the answers could not matter any more.",
        "By hand: optictl simulate; optictl serve --base-url http://127.0.0.1:4000/v1; and then",
        Text(f'optictl ask moa-sim "{QUESTION}"', style="bold"),
        sep="\n",
    )


if __name__ == "__main__":
    sys.exit(main())
