"""``make bench-router`` on a checkpoint of tiny dimensions."""

from __future__ import annotations

import pytest

from benchmarks.router import main
from benchmarks.sides import PEER

pytestmark = pytest.mark.router

TINY = {"vocab_size": 8, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 4}


def test_every_figure_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick"], TINY) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert head == ["figure", "optictl", PEER, "better"]
    told = {figure: rest for figure, *rest in rows}
    for figure in (
        "a decision, 32 tokens",
        "a decision, 128 tokens",
        "a decision, 512 tokens",
        "a question that was asked before",
    ):
        ours, theirs, better = told.pop(figure)
        assert first(ours) > 0
        assert first(theirs) > 0
        assert better.endswith(" ×")
    weights = next(figure for figure in told if figure.startswith("the weights, "))
    assert told.pop(weights)[0].endswith(" MB")
    held = [first(told.pop(f"{what} memory")[0]) for what in (
        "anonymous", "resident", "largest resident",
    )]  # fmt: skip
    assert 10 < held[0] <= held[1] <= held[2]
    assert not told


def first(text: str) -> float:
    return float(text.split()[0].replace(",", ""))
