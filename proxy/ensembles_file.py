"""Reads the registry of ensembles, ``ensembles.jsonl`` (docs/api.md, "Ensembles")."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, Field, ValidationError

from proxy.ensembles import Ensemble, Member, Role, Team
from proxy.errors import ConfigError
from proxy.registry import slugs
from proxy.settings import Limits
from proxy.strict import (
    WANTED,
    Count,
    Number,
    Problem,
    Section,
    Sections,
    Text,
    Wanted,
    Word,
    did_you_mean,
    problems,
)

#: The grammar of an ensemble's name: opt-<intent>-<profile>-<tier>.
NAME = re.compile(r"opt(-[a-z0-9]+)+-(high|balanced|fast)-(xl|l|m|s)")

#: Members of a body that say what is asked and how, and are no parameters.
_NO_PARAMS = frozenset({"messages", "model", "n", "stream", "stream_options"})
_WANTED: Wanted = {
    **WANTED,
    "dict_type": ("an object", "write it in braces"),
    "model_type": ("an object", "write it in braces"),
    "list_type": ("a list", "write it in brackets"),
}


def load(path: Path, *, single: bool = False) -> Mapping[str, Ensemble]:
    """The ensembles of the file at ``path`` by name, in its order.

    One JSON object a line; blank lines and those that begin with ``#`` say nothing. ``single``
    permits ensembles of one model. Raises `ConfigError` with all that is wrong in the file, one
    ``FILE:LINE: …`` a line.
    """
    return loads(_read(path), path, single=single)


def loads(text: str, path: Path, *, single: bool = False) -> Mapping[str, Ensemble]:
    """The same from a text that need not be at ``path`` yet."""
    rows: dict[int, _Row] = {}
    said: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            rows[number] = _Row.model_validate(_object(line))
        except _NotAnObject as error:
            said.append((number, str(error)))
        except ValidationError as error:
            said += [(number, _placed(found)) for found in problems(error, _SECTIONS, _WANTED)]
    said += [(number, word) for number, row in rows.items() for word in _within(row, single)]
    said += _across(rows)
    if said:
        raise ConfigError(
            "\n".join(f"{path}:{number}: {_printable(word)}" for number, word in sorted(said))
        )
    return {row.ensemble: _ensemble(row) for row in rows.values()}


def _name(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise ValueError(
            "must be opt-<intent>-<profile>-<tier>: a-z, 0-9 and dashes, with profile high, "
            "balanced or fast and tier xl, l, m or s"
        )
    return name


def _pipeline(text: str) -> str:
    known = slugs()
    for slug in re.split(r"[&|]", text):
        if not slug:
            raise ValueError("is no pipeline: a name is missing beside '&' or '|'")
        if slug not in known:
            hint = did_you_mean(slug, known) or f"; known: {', '.join(sorted(known))}"
            raise ValueError(f"names '{slug}', which is no approach{hint}")
    return text


def _params(params: dict[str, Any]) -> dict[str, Any]:
    for name in params:
        if name in _NO_PARAMS or name.startswith("optillm_"):
            raise ValueError(f"must not set '{name}', which is no parameter of a model; remove it")
    return params


_Params = Annotated[dict[str, Any], AfterValidator(_params)]


class _Member(Section):
    model: Word
    role: Role = "proposer"
    weight: Number = 1.0
    params: _Params = Field(default_factory=dict)


class _Budget(Section):
    max_calls: Count | None = None
    max_total_tokens: Count | None = None
    max_seconds: Number | None = None


class _Row(Section):
    ensemble: Annotated[Word, AfterValidator(_name)]
    approach: Annotated[Word, AfterValidator(_pipeline)]
    members: Annotated[list[_Member], Field(min_length=1)]
    min_successful: Count = 1
    params: _Params = Field(default_factory=dict)
    budget: _Budget = _Budget()
    purpose: Text = ""
    notes: Text = ""


_SECTIONS: Sections = {(): _Row, ("members", "*"): _Member, ("budget",): _Budget}


class _NotAnObject(Exception):
    """A line that is no JSON object, or one that says something twice."""


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None


def _object(line: str) -> dict[str, Any]:
    """The JSON object that a line is; raises `_NotAnObject`."""
    try:
        found = json.loads(line, object_pairs_hook=_once, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise _NotAnObject(f"not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError):
        raise _NotAnObject("not JSON: a number is too long, or it is nested too deeply") from None
    if not isinstance(found, dict):
        raise _NotAnObject('must be an object: {"ensemble": "opt-…", …}')
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NotAnObject(f"key '{twice}' stands twice; remove one")
    return members


def _no_number(name: str) -> NoReturn:
    raise _NotAnObject(f"not JSON: {name} is no number")


def _placed(found: Problem) -> str:
    """A problem with the object that it is in: ``members[0]: role must be …``."""
    path = ""
    for step in found.where[:-1]:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return f"{path}: {found.said}" if path else found.said


def _within(row: _Row, single: bool) -> Iterator[str]:
    """What no value of a row shows by itself."""
    proposers = sum(member.role == "proposer" for member in row.members)
    if not proposers:
        yield "members: none is a proposer; give one the role"
    elif row.min_successful > proposers:
        yield f"min_successful must be at most the number of proposers, {proposers}"
    models = {member.model for member in row.members}
    if len(models) == 1 and not single:
        yield (
            f"members: '{models.pop()}' is the only model, and an ensemble is of at least two "
            "different ones; add another, or allow it with policy.single_model_handles: allow"
        )


def _across(rows: Mapping[int, _Row]) -> Iterator[tuple[int, str]]:
    """What no row shows by itself."""
    first: dict[str, int] = {}
    for number, row in rows.items():
        if row.ensemble in first:
            line = first[row.ensemble]
            yield number, f"the ensemble in line {line} has the name {row.ensemble} too; rename one"
        first.setdefault(row.ensemble, number)
    for number, row in rows.items():
        for member in {member.model: member for member in row.members}.values():
            if member.model in first:
                yield (
                    number,
                    f"members: '{member.model}' is an ensemble itself; name the models it has",
                )


def _printable(said: str) -> str:
    """Names may hold any character; each problem has one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in said)


def _ensemble(row: _Row) -> Ensemble:
    members = tuple(
        Member(member.model, member.role, member.params, member.weight) for member in row.members
    )
    return Ensemble(
        name=row.ensemble,
        approach=row.approach,
        team=Team(members, row.min_successful),
        params=row.params,
        limits=Limits(**row.budget.model_dump()),
        purpose=row.purpose,
        notes=row.notes,
    )
