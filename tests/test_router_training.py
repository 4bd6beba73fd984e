"""The linear model that is shipped is the one that the script makes, and worth having."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.router.linear import FILE, shipped
from tools import train_router
from tools.router_set import COSTS, Example, held_out, trained
from tools.train_router import HELD_OUT, REPORT, SEED, TRAINED, choices, mean_regret


@pytest.fixture(scope="module")
def unseen() -> list[Example]:
    return held_out(HELD_OUT, SEED)


def test_what_is_shipped_is_what_make_train_router_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(train_router, "FILE", tmp_path / "linear.bin")
    monkeypatch.setattr(train_router, "REPORT", tmp_path / "report.md")
    train_router.main()
    assert (tmp_path / "linear.bin").read_bytes() == FILE.read_bytes(), "run: make train-router"
    assert (tmp_path / "report.md").read_text() == REPORT.read_text(), "run: make train-router"


def test_it_loses_less_than_what_it_is_compared_with(unseen: list[Example]) -> None:
    lost = {name: mean_regret(choice, unseen) for name, choice in choices(shipped()).items()}
    assert lost["oracle"] == 0
    for name in ("linear model alone", "features, then the model where sure"):
        assert lost[name] < min(lost["always none"], lost["features alone"])


def test_what_is_held_out_is_worded_otherwise(unseen: list[Example]) -> None:
    """Only the slots of a template may be the same."""
    seen = {each.query for each in trained(TRAINED, SEED)}
    assert not seen & {each.query for each in unseen}


def test_an_example_knows_what_each_approach_is_worth(unseen: list[Example]) -> None:
    for each in unseen:
        assert each.utilities.keys() == COSTS.keys()
        assert each.regret(each.best) == 0
        assert min(map(each.regret, COSTS)) == 0


def test_the_same_questions_each_time() -> None:
    assert trained(5, 1) == trained(5, 1)
    assert trained(5, 1) != trained(5, 2)
