"""The registry as rows for people: what each approach costs, takes and is for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from optictl.errors import UsageError
from proxy.approach import Entry, Feature, Option
from proxy.errors import BadRequest
from proxy.registry import Registry

FEATURES: tuple[Feature, ...] = get_args(Feature)


@dataclass(frozen=True, slots=True)
class Span:
    """Least and most, equal where the options settle it."""

    least: int
    most: int

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}–{self.most}"


@dataclass(frozen=True, slots=True)
class OptionRow:
    """One option; ``accepts`` says type and range in words."""

    name: str
    type: str
    default: Any
    accepts: str
    range: tuple[float, float] | None
    values: tuple[Any, ...] | None
    help: str


@dataclass(frozen=True, slots=True)
class ApproachRow:
    """One approach, transform or tool; calls and rounds are those at its default options."""

    slug: str
    kind: str
    paper: str | None
    calls: Span
    rounds: Span
    summary: str
    use: str
    #: What a request may carry that it treats: tools, parts (images and files), formats.
    handles: tuple[Feature, ...]
    options: tuple[OptionRow, ...]
    #: OptiLLM's names of options to ours.
    aliases: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def approach_rows(registry: Registry) -> list[ApproachRow]:
    """All that is built, by slug."""
    return [_row(entry) for entry in registry]


def approach_row(registry: Registry, slug: str) -> ApproachRow:
    """One of them. Raises `UsageError`: no such slug, or one that is reserved and not built yet."""
    try:
        return _row(registry.checked(slug))
    except BadRequest as error:
        raise UsageError(error.message, code=error.code) from error


def _row(entry: Entry) -> ApproachRow:
    mark, shape = entry.mark, entry.shape({})
    return ApproachRow(
        slug=mark.slug,
        kind=mark.kind,
        paper=mark.paper,
        calls=Span(shape.least_calls, shape.most_calls),
        rounds=Span(shape.least_rounds, shape.most_rounds),
        summary=entry.summary,
        use=mark.use,
        handles=tuple(feature for feature in FEATURES if feature in mark.handles),
        options=tuple(_option(option) for option in entry.options.values()),
        aliases=dict(mark.aliases),
    )


def _option(option: Option) -> OptionRow:
    return OptionRow(
        name=option.name,
        type=option.type.__name__,
        default=option.default,
        accepts=option.describe() + (" or null" if option.nullable else ""),
        range=None if option.range is None else (option.range.low, option.range.high),
        values=option.values,
        help=option.help,
    )
