"""The pages name what there is: every approach, every error, every flag that they speak of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy import errors, hops
from proxy.registry import discover
from tools.reference import every_command

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def subclasses(kind: type[errors.ProxyError]) -> set[type[errors.ProxyError]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


ERRORS = sorted(subclasses(errors.ProxyError) | {hops.LoopDetected}, key=lambda e: e.__name__)
FLAGS = {
    flag
    for command in every_command().values()
    for option in command.params
    for flag in (*option.opts, *option.secondary_opts)
}
RAISED = re.compile(r'code="([a-z_]+)"')


@pytest.mark.parametrize("error", [e for e in ERRORS if e.__module__.startswith("proxy")])
def test_every_error_is_in_the_page_for_users(error: type[errors.ProxyError]) -> None:
    assert f"`{error.code}`" in (ROOT / "docs/api.md").read_text()


def test_every_code_that_is_raised_is_documented() -> None:
    page = "".join((ROOT / f"docs/{name}.md").read_text() for name in ("api", "operator"))
    raised = {
        code for path in ROOT.glob("proxy/**/*.py") for code in RAISED.findall(path.read_text())
    }
    assert {code for code in raised if f"`{code}`" not in page} == set()


@pytest.mark.parametrize("slug", [entry.slug for entry in discover()])
def test_every_approach_is_in_the_page_of_approaches(slug: str) -> None:
    page = (ROOT / "docs/approaches.md").read_text()
    assert f"| [`{slug}`](#{slug}) |" in page
    assert f"\n## {slug}\n" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_spoken_of_exists(page: Path) -> None:
    """Flags of the commands, in code spans that begin with two dashes."""
    named = set(re.findall(r"`(--[a-z0-9_-]+)", page.read_text()))
    assert named - FLAGS <= {"--quick", "--only", "--soak", "--seconds"}
