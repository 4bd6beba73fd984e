"""What ``optictl explain`` knows: error codes, checks, exit statuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from optictl import errors
from optictl.errors import OptictlError, UsageError
from optictl.exit_status import Exit

Kind = Literal["error", "proxy", "check", "exit"]

#: A file for each code: what it means in the first line, then why, and what to do.
FOLDER = Path(__file__).parent / "explanations"
#: The same for the codes of the proxy.
PROXY_FOLDER = FOLDER / "proxy"


@dataclass(frozen=True, slots=True)
class Explanation:
    """``name`` at length; ``text`` is Markdown, its first paragraph the meaning."""

    name: str
    kind: Kind
    text: str

    @property
    def meaning(self) -> str:
        return " ".join(self.text.split("\n\n", 1)[0].split())

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "meaning": self.meaning, "text": self.text}


def known() -> list[Explanation]:
    """Everything that can be explained; where a name has two, the first is meant."""
    return [*_written(FOLDER, "error"), *_written(PROXY_FOLDER, "proxy"), *_checks(), *_statuses()]


def explain(name: str) -> Explanation:
    """Raises `UsageError` for what nobody knows, with the nearest that somebody does."""
    # Imported here: it imports pydantic.
    from proxy.strict import did_you_mean

    by_name = {each.name: each for each in reversed(known())}
    found = by_name.get(name.strip().lower())
    if found is None:
        near = did_you_mean(name.strip().lower(), by_name)
        raise UsageError(
            f"nothing is called {name!r}: no error code, no check, no exit status"
            f"{near or '; see them all: optictl explain'}"
        )
    return found


def _written(folder: Path, kind: Kind) -> Iterator[Explanation]:
    for file in sorted(folder.glob("*.md")):
        yield Explanation(file.stem, kind, file.read_text(encoding="utf-8").strip())


def _checks() -> Iterator[Explanation]:
    # Imported here: checks import an HTTP client.
    from optictl.checking import discover

    for check in discover():
        run = f"Run it alone: `optictl check {check.name}`."
        parts = [check.about, check.explanation, run]
        yield Explanation(check.name, "check", "\n\n".join(filter(None, parts)))


def _statuses() -> Iterator[Explanation]:
    codes = sorted({(kind.exit_code, kind.code) for kind in _tree(OptictlError)})
    for status in Exit:
        named = ", ".join(f"`{code}`" for exit_code, code in codes if exit_code is status)
        what = f"The error codes that end so: {named}." if named else ""
        yield Explanation(
            str(status.value), "exit", "\n\n".join(filter(None, [f"{status.meaning}.", what]))
        )


def _tree(kind: type[OptictlError]) -> Iterator[type[OptictlError]]:
    if kind.__module__ == errors.__name__:
        yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
