"""What a request has held is free as soon as it ends, not when a collection finds it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import InProcess, eventually

from proxy.edge.respond import Exchange
from proxy.run.calls import recorded
from proxy.run.ledger import Ledger
from proxy.run.plan import Plan
from proxy.run.scope import Run

ASKED = 5
OF_A_REQUEST = {Exchange, Ledger, Plan, Run, recorded}


@contextmanager
def uncollected() -> Iterator[list[Any]]:
    """What could only be freed by a collection, once the block has ended."""
    found: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def requests(found: list[Any]) -> set[str]:
    """The types of what is made for each request; an app of another test may be found too."""
    return {type(each).__name__ for each in found if type(each) in OF_A_REQUEST}


@pytest.mark.parametrize("members", [{}, {"stream": True}], ids=["json", "stream"])
@pytest.mark.parametrize(
    "model",
    [
        "none-sim", "re2-sim", "moa-sim", "bon-sim", "self_consistency-sim", "mcts-sim", "cepo-sim",
        "plansearch-sim", "z3-sim", "re2&moa-sim", "re2|moa-sim",
    ],
)  # fmt: skip
def test_a_request_leaves_nothing_to_collect(
    proxy: InProcess, model: str, members: dict[str, Any]
) -> None:
    assert proxy.ask(model, **members).status_code == 200
    with uncollected() as found:
        for _ in range(ASKED):
            assert proxy.ask(model, **members).status_code == 200
    assert requests(found) == set()


def test_a_connection_that_is_kept_does_not_keep_the_request_that_opened_it(
    proxy: InProcess,
) -> None:
    assert proxy.ask("moa-sim").status_code == 200
    assert proxy.http.get("/health").status_code == 200

    def living() -> list[Exchange]:
        gc.collect()
        mine = [each for each in gc.get_objects() if type(each) is Exchange]
        return [each for each in mine if each.path.endswith("/chat/completions")]

    assert eventually(lambda: not living(), within=3)
