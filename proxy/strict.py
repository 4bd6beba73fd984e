"""Files of settings in YAML that refuse what they do not know, and say where.

The models' types and their base, and the messages that are made of what pydantic says: one
``FILE:LINE:COL: what is wrong; what to do`` a line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)

from proxy.located import Document, Where, scalar


class Interpolated(str):
    """What ``${…}`` in a value came to."""

    __slots__ = ()


def _read(value: object) -> object:
    """A number is one also when it comes from a variable."""
    return scalar(value) if isinstance(value, Interpolated) else value


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, Interpolated) and not value)


def _word(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if not value.isprintable():
        raise ValueError("must not hold control characters")
    return value


Text = Annotated[str, Strict()]
Word = Annotated[Text, AfterValidator(_word)]
Flag = Annotated[bool, Strict(), BeforeValidator(_read)]
Number = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), BeforeValidator(_read)]
Whole = Annotated[int, Strict(), BeforeValidator(_read)]
Count = Annotated[Whole, Field(ge=1)]


class Section(BaseModel):
    """A mapping of known keys. One without a value counts as not written."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    #: Keys of which nothing is a value too.
    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _written(cls, section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        # An unknown key is wrong even without a value.
        return {
            key: value
            for key, value in section.items()
            if not _blank(value) or key not in cls.model_fields or key in cls.nullable
        }


#: The models of a file by the keys that lead to them; ``*`` is any key or number.
Sections = Mapping[tuple[str, ...], type[Section]]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at ``where``, or with the key that leads there."""

    where: Where
    said: str
    key: bool = False


#: By pydantic's type of error: what is wanted, and how to write it.
Wanted = Mapping[str, tuple[str, str]]

#: For YAML.
WANTED: Wanted = {
    "string_type": ("text", "put it in quotes"),
    "int_type": ("a whole number", "write digits, without quotes"),
    "float_type": ("a number", "write digits, without quotes or a unit"),
    "bool_type": ("true or false", "write one of them, without quotes"),
    "dict_type": ("a mapping", "write its keys below it, indented"),
    "model_type": ("a mapping", "write its keys below it, indented"),
    "list_type": ("a list", "begin each entry with '- '"),
}
_GIVEN = {
    type(None): "nothing",
    bool: "true or false",
    int: "a whole number",
    float: "a number with a point",
    list: "a list",
    dict: "a mapping",
}


def problems(
    error: ValidationError, sections: Sections, wanted: Wanted = WANTED
) -> Iterator[Problem]:
    """What a model has refused. No value is shown, since any may be a secret by mistake."""
    for found in error.errors(include_url=False):
        where = found["loc"]
        if found["type"] == "extra_forbidden":
            yield Problem(where, _unknown(where, sections), key=True)
        else:
            said = _said(found["type"], found["input"], found.get("ctx", {}), wanted)
            yield Problem(where, f"{_label(where)} {said or found['msg']}")


def _said(kind: str, given: object, context: Mapping[str, Any], wanted: Wanted) -> str | None:
    if kind in wanted:
        what, hint = wanted[kind]
        return f"must be {what}, not {_GIVEN.get(type(given), 'text')}; {hint}"
    match kind:
        case "missing":
            return "is missing; add it"
        case "too_short":
            return "must not be empty; add an entry"
        case "literal_error":
            return choices(given, re.findall("'(.*?)'", context["expected"]))
        case "greater_than":
            return f"must be greater than {context['gt']:g}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "string_pattern_mismatch":
            return f"must look like {context['pattern']}"
        case "finite_number":
            return "must be finite"
        case "value_error":
            return str(context["error"])
    return None


def choices(given: object, allowed: Sequence[str]) -> str:
    """What is wrong with a value that is none of ``allowed``."""
    return f"must be one of: {', '.join(allowed)}{did_you_mean(given, allowed)}"


def _unknown(where: Where, sections: Sections) -> str:
    *path, key = map(str, where)
    known = next(
        list(section.model_fields)
        for steps, section in sections.items()
        if len(steps) == len(path)
        and all(step in ("*", given) for step, given in zip(steps, path, strict=True))
    )
    hint = did_you_mean(key, known) or f"; known here: {', '.join(known)}"
    return f"unknown key '{key}'{hint}"


def did_you_mean(given: object, known: Collection[str]) -> str:
    """``; did you mean '…'?`` for the nearest of ``known``, or nothing."""
    near = difflib.get_close_matches(given, known, n=1) if isinstance(given, str) else []
    return f"; did you mean '{near[0]}'?" if near else ""


def _label(where: Where) -> str:
    last = where[-1]
    return f"{where[-2]}[{last}]" if isinstance(last, int) else last


def report(path: Path, document: Document, found: Iterable[Problem]) -> str:
    """All problems of a file, one a line, in its order."""
    lines = {}
    for problem in found:
        place = document.key(problem.where) if problem.key else document.place(problem.where)
        # Keys may hold any character; each problem has one line.
        said = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in problem.said)
        lines[place, said] = f"{path}:{place.line}:{place.column}: {said}"
    return "\n".join(lines[at] for at in sorted(lines))
