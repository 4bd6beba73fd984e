"""``make bench-router`` on a checkpoint of tiny dimensions."""

from __future__ import annotations

import pytest

from benchmarks.router import main
from benchmarks.sides import PEER
from proxy.router.cpu import has_bf16

# It loads one classifier after the other, each at the lowest priority.
pytestmark = [pytest.mark.router, pytest.mark.timeout(300)]

TINY = {"vocab_size": 8, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 4}


def test_every_figure_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick"], TINY) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert head == ["figure", "optictl", PEER, "better"]
    service = rows.index(["service", "without a router", "with one"])
    assert [figure for figure, *_ in rows[service + 2 :]] == [
        "start to /health",
        "/health while it loads, p50",
        "/health while it loads, p95",
        "/health once it is ready, p50",
        "/health once it is ready, p95",
    ]
    assert all(first(each) > 0 for _, *sides in rows[service + 2 :] for each in sides)
    del rows[service:]
    told = {figure: rest for figure, *rest in rows}
    assert told.pop("calibration")[0].startswith("int8 ")
    full = "bf16" if has_bf16() else "fp32"
    assert told.pop(f"the weights in {full}")[0].endswith(" MB")
    ours, theirs, better = told.pop("a question that was asked before")
    assert first(ours) > 0
    precisions = [full, "int8"] if "anonymous memory, int8" in told else [full]
    for precision in precisions:
        for tokens in (32, 128, 512):
            ours, theirs, better = told.pop(f"a decision, {tokens} tokens, {precision}")
            assert first(ours) > 0
            assert first(theirs) > 0
            assert better.endswith(" ×")
        held = [first(told.pop(f"{what} memory, {precision}")[0]) for what in (
            "anonymous", "resident", "largest resident",
        )]  # fmt: skip
        assert 10 < held[0] <= held[1] <= held[2]
    assert not told


def first(text: str) -> float:
    return float(text.split()[0].replace(",", ""))
