"""A load rests between two pieces of its work, and nobody else does."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

from proxy.router import rests
from proxy.router.rests import Rests, ratio_for


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each rest was; none of them takes any time."""
    found: list[float] = []
    monkeypatch.setattr(rests.time, "sleep", found.append)
    return found


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three modules, of which each takes some milliseconds."""
    names = [f"rests_module_{number}" for number in range(3)]
    for name, following in zip(names, [*names[1:], "math"], strict=True):
        (tmp_path / f"{name}.py").write_text(
            "import time\n"
            "end = time.thread_time() + 0.005\n"
            "while time.thread_time() < end: pass\n"
            f"import {following}\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return names


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_rest_is_so_many_times_as_long_as_the_work(slept: list[float]) -> None:
    paced = Rests(2.0)

    def load() -> None:
        for _ in range(3):
            work(0.004)
            paced.rest()
            paced.rest()

    began = time.thread_time()
    paced.during(load)
    assert len(slept) == 3
    assert all(each >= 0.008 for each in slept)
    assert sum(slept) <= 2 * (time.thread_time() - began)


def test_between_the_modules_of_an_import(slept: list[float], modules: list[str]) -> None:
    Rests(1.0).during(lambda: import_module(modules[0]))
    assert len(slept) == 2


def test_another_thread_imports_meanwhile_without_a_rest(
    slept: list[float], modules: list[str]
) -> None:
    with ThreadPoolExecutor(1) as another:
        Rests(1.0).during(lambda: another.submit(import_module, modules[0]).result())
    assert modules[2] in sys.modules
    assert not slept


def test_what_comes_after_it_does_not_rest(slept: list[float], modules: list[str]) -> None:
    before = list(sys.meta_path)
    with pytest.raises(ZeroDivisionError):
        Rests(1.0).during(lambda: 1 // 0)
    assert sys.meta_path == before
    import_module(modules[0])
    assert not slept


@pytest.mark.parametrize(("cores", "share"), [(1, 1 / 3), (2, 1 / 3), (3, 1 / 2), (9, 4 / 5)])
def test_a_load_takes_less_where_there_is_little(cores: int, share: float) -> None:
    assert 1 / (1 + ratio_for(cores)) == pytest.approx(share)
