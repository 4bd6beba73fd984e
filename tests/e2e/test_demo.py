"""`make demo`: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.demo import APPROACHES, STREAMED, WIDTH

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "benchmarks.demo"]


# One run of the demo for all of its tests.
pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="module")
def shown() -> str:
    result = subprocess.run(DEMO, cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


def section(shown: str, title: str) -> list[str]:
    """The lines under a heading."""
    headings = list(re.finditer(r"^(\S.*?)? ?─{8,}$", shown, re.MULTILINE))
    for heading, following in pairwise(headings):
        if heading[1] == title:
            return shown[heading.end() : following.start()].splitlines()
    raise AssertionError(f"no section {title!r}")


def calls(lines: list[str]) -> list[list[str]]:
    """The rows of a section's waterfall as words."""
    return [line.split() for line in lines if re.match(r"    \d+  \w", line)]


#: Roles of the calls in the order of their rounds.
ROLES = {
    "none": ["final"],
    "re2": ["final"],
    "bon": ["proposer"] * 3 + ["judge"] * 3,
    "moa": ["proposer"] * 3 + ["critic", "aggregator"],
    "self_consistency": ["proposer"] * 5,
}


@pytest.mark.parametrize("slug", APPROACHES)
def test_each_approach_has_its_waterfall_and_its_answer(slug: str, shown: str) -> None:
    lines = section(shown, slug)
    assert [row[1] for row in calls(lines)] == ROLES[slug]
    assert any(re.match(r"answer \S+ [✓✗] ", line) for line in lines)
    assert any(line.startswith(f"{slug} · {len(ROLES[slug])} call") for line in lines)


def test_calls_that_no_longer_mattered_are_cancelled(shown: str) -> None:
    outcomes = [row[-1] for row in calls(section(shown, "self_consistency"))]
    assert set(outcomes) <= {"ok", "cancelled"}
    assert "cancelled" in outcomes


def test_one_is_streamed_and_says_when_it_began_to_speak(shown: str) -> None:
    lines = section(shown, f"{STREAMED}, streamed")
    assert [row[1] for row in calls(lines)] == ROLES[STREAMED]
    assert "█" in lines[[row[1] for row in calls(lines)].index("aggregator") + 3]
    [cost] = [line for line in lines if "first token after" in line]
    first, whole = re.findall(r"(\d+\.\d\d) s", cost)[::-1]
    assert 0 < float(first) < float(whole)


def test_it_fits_a_terminal_of_100_columns(shown: str) -> None:
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert "\x1b" not in shown


def test_it_stops_what_it_started(shown: str) -> None:
    [port] = re.findall(r"proxy http://127\.0\.0\.1:(\d+)", shown)
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        assert not (b"serve" in words and port.encode() in words)


def test_it_fails_where_the_proxy_does_not_start() -> None:
    code = (
        "import sys, benchmarks.demo as demo\n"
        "from benchmarks.processes import Proxy\n"
        "demo.Proxy = lambda url: Proxy('no-url')\n"
        "sys.exit(demo.main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert "The demo failed" in result.stdout
    assert "--base-url no-url" in result.stdout
