"""How an approach, a transform or a tool says what it is: the decorators only mark.

The registry (`proxy.registry`) finds marked functions by listing the folders; nothing here has a
side effect.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from proxy.ensembles import ROLES, Role
from proxy.errors import BadRequest

Kind = Literal["approach", "transform", "tool"]
#: What a request may carry that not every algorithm can treat honestly.
Feature = Literal["tools", "parts", "formats"]
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Range:
    """The closed interval an option must lie in."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Shape:
    """What an approach costs at given options: least and most, at unlimited fan-out, no faults.

    ``calls`` counts choices, not HTTP requests; ``rounds`` is the longest chain of calls that have
    to wait for each other. A single number means that least and most are equal.
    """

    calls: int | tuple[int, int]
    rounds: int | tuple[int, int]

    @property
    def least_calls(self) -> int:
        return self.calls if isinstance(self.calls, int) else self.calls[0]

    @property
    def most_calls(self) -> int:
        return self.calls if isinstance(self.calls, int) else self.calls[1]

    @property
    def least_rounds(self) -> int:
        return self.rounds if isinstance(self.rounds, int) else self.rounds[0]

    @property
    def most_rounds(self) -> int:
        return self.rounds if isinstance(self.rounds, int) else self.rounds[1]

    def __add__(self, other: Shape) -> Shape:
        """One after the other."""
        return Shape(
            calls=(self.least_calls + other.least_calls, self.most_calls + other.most_calls),
            rounds=(self.least_rounds + other.least_rounds, self.most_rounds + other.most_rounds),
        )

    def __or__(self, other: Shape) -> Shape:
        """Side by side."""
        return Shape(
            calls=(self.least_calls + other.least_calls, self.most_calls + other.most_calls),
            rounds=(
                max(self.least_rounds, other.least_rounds),
                max(self.most_rounds, other.most_rounds),
            ),
        )


class Options:
    """An approach's options as attributes, for ``shape=lambda o: Shape(calls=o.samples, ...)``."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:  # for the type checker: any option may exist
        raise AttributeError(name)


@dataclass(frozen=True, slots=True)
class Mark:
    """What the decorator writes on the function."""

    slug: str
    kind: Kind
    paper: str | None
    shape: Callable[[Options], Shape]
    aliases: Mapping[str, str]
    handles: frozenset[Feature]
    use: str
    roles: Callable[[Options], Sequence[Role]]


@dataclass(frozen=True, slots=True)
class Option:
    """One option, read off the signature."""

    name: str
    type: type
    default: Any
    range: Range | None = None
    values: tuple[Any, ...] | None = None
    help: str = ""
    nullable: bool = False

    def describe(self) -> str:
        """Its type and what it accepts, for messages and documentation."""
        if self.values is not None:
            return " | ".join(map(str, self.values))
        text = {"int": "whole number", "float": "number", "bool": "true or false"}.get(
            self.type.__name__, "text"
        )
        if self.range is None:
            return text
        return f"{text} from {self.range.low:.10g} to {self.range.high:.10g}"

    def check(self, value: Any, slug: str) -> Any:
        """``value`` in the option's type; raises `BadRequest` naming slug, option and range."""
        if value is None and self.nullable:
            return None
        accepted = self._coerced(value)
        if accepted is None:
            raise BadRequest(
                f"Option '{self.name}' of approach '{slug}' must be {self.describe()}, "
                f"not {_shown(value)}.",
                code="invalid_option",
                param=f"optillm_options.{self.name}",
            )
        return accepted

    def _coerced(self, value: Any) -> Any:
        if self.values is not None:
            return value if value in self.values and not isinstance(value, bool) else None
        if self.type is bool:
            return value if isinstance(value, bool) else None
        if self.type is int:
            number = int(value) if isinstance(value, float) and value.is_integer() else value
            if not isinstance(number, int) or isinstance(number, bool):
                return None
        elif self.type is float:
            if not isinstance(value, int | float) or isinstance(value, bool):
                return None
            number = float(value)
        else:
            return value if isinstance(value, str) else None
        inside = self.range is None or self.range.low <= number <= self.range.high
        return number if inside else None


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered approach, transform or tool."""

    mark: Mark
    function: Callable[..., Any]
    summary: str
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return self.mark.slug

    def shape(self, values: Mapping[str, Any]) -> Shape:
        return self.mark.shape(Options({**self.defaults, **values}))

    def roles(self, values: Mapping[str, Any]) -> Sequence[Role]:
        """The roles that it asks members of an ensemble for, in its order."""
        return self.mark.roles(Options({**self.defaults, **values}))

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: option.default for name, option in self.options.items()}

    def option(self, name: str) -> Option | None:
        """The option called ``name``, under its own name or a peer's."""
        return self.options.get(self.mark.aliases.get(name, name))


def approach(
    slug: str,
    *,
    shape: Callable[[Any], Shape],
    paper: str | None = None,
    aliases: Mapping[str, str] | None = None,
    handles: frozenset[Feature] | set[Feature] = frozenset({"parts", "formats"}),
    use: str = "",
    roles: Callable[[Any], Sequence[Role]] = lambda _: ROLES,
    acts: bool = False,
) -> Callable[[_F], _F]:
    """Mark ``async def f(chat, llm, *, options) -> Reply``.

    ``aliases`` maps a peer's option names to ours, ``handles`` names what the algorithm treats
    honestly (anything else falls back to ``none``), ``use`` says when to choose it, ``roles`` whom
    of an ensemble it asks, in its order. One that ``acts`` has to run code, fetch URLs or call
    tools: no tag in a prompt can choose it. What can do without programs asks ``sandbox.runs``.
    """
    return _marker(slug, "tool" if acts else "approach", shape, paper, aliases, handles, use, roles)


def transform(
    slug: str,
    *,
    shape: Callable[[Any], Shape] = lambda _: Shape(calls=0, rounds=0),
    paper: str | None = None,
    aliases: Mapping[str, str] | None = None,
    handles: frozenset[Feature] | set[Feature] = frozenset({"tools", "parts", "formats"}),
    use: str = "",
    roles: Callable[[Any], Sequence[Role]] = lambda _: (),
) -> Callable[[_F], _F]:
    """Mark ``async def f(chat, llm, *, options) -> tuple[Chat, Filter | None]``."""
    return _marker(slug, "transform", shape, paper, aliases, handles, use, roles)


def _marker(
    slug: str,
    kind: Kind,
    shape: Callable[[Any], Shape],
    paper: str | None,
    aliases: Mapping[str, str] | None,
    handles: frozenset[Feature] | set[Feature],
    use: str,
    roles: Callable[[Any], Sequence[Role]],
) -> Callable[[_F], _F]:
    mark = Mark(slug, kind, paper, shape, dict(aliases or {}), frozenset(handles), use, roles)

    def decorate(function: _F) -> _F:
        function.__approach__ = mark  # type: ignore[attr-defined]
        return function

    return decorate


def entry_of(function: Callable[..., Any]) -> Entry | None:
    """The entry a marked function makes, or None where it is not marked.

    Raises `TypeError` for an option whose annotation cannot be validated.
    """
    mark = getattr(function, "__approach__", None)
    if not isinstance(mark, Mark):
        return None
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    options = {
        parameter.name: _option(parameter, hints[parameter.name])
        for parameter in parameters
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    return Entry(mark=mark, function=function, summary=summary, options=options)


def _option(parameter: inspect.Parameter, hint: Any) -> Option:
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *extras_list = get_args(hint)
        extras = tuple(extras_list)
    nullable = False
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        nullable, hint = len(members) < len(get_args(hint)), members[0]
    values: tuple[Any, ...] | None = None
    if get_origin(hint) is Literal:
        values = get_args(hint)
        hint = type(values[0])
    if hint not in (int, float, bool, str) or parameter.default is inspect.Parameter.empty:
        raise TypeError(f"option {parameter.name!r} needs a plain type and a default")
    return Option(
        name=parameter.name,
        type=hint,
        default=parameter.default,
        range=next((extra for extra in extras if isinstance(extra, Range)), None),
        values=values,
        help=next((extra for extra in extras if isinstance(extra, str)), ""),
        nullable=nullable,
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
