"""What an ensemble's answer takes: which model in which stage, how many calls, how many rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_

from optictl.approaches import Span
from proxy.approach import Shape
from proxy.ensembles import Ensemble, Role, Team
from proxy.pipeline import Feed, Leaf, Node, Wrap
from proxy.registry import Registry
from proxy.run.plan import make_plan
from proxy.settings import Settings
from proxy.wire.request import parse_chat


@dataclass(frozen=True, slots=True)
class Part:
    """Who plays a role, each model once."""

    role: Role
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """One approach of the pipeline."""

    slug: str
    summary: str
    calls: Span
    rounds: Span
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Least and most of a request for one choice, and the stages in their order."""

    calls: Span
    rounds: Span
    stages: tuple[Stage, ...]


def cost(ensemble: Ensemble, registry: Registry) -> Cost:
    """What the proxy would plan for a plain question. Raises `BadRequest` for what it refuses."""
    body = {"model": ensemble.name, "messages": [{"role": "user", "content": "?"}]}
    settings = Settings(base_url="", ensembles={ensemble.name: ensemble})
    plan = make_plan(parse_chat(body), registry, (), settings)
    whole = reduce(or_, (branch.shape for branch in plan.branches))
    nodes = (branch.node for branch in plan.branches if branch.node is not None)
    stages = tuple(stage for node in nodes for stage in _stages(node, ensemble.team))
    return Cost(*_spans(whole), stages)


def _stages(node: Node, team: Team) -> Iterator[Stage]:
    match node:
        case Leaf():
            yield _stage(node, team)
        case Feed():
            yield _stage(node.first, team)
            yield from _stages(node.then, team)
        case Wrap():
            yield _stage(Leaf(node.entry, node.options), team)
            yield from _stages(node.inner, team)


def _stage(leaf: Leaf, team: Team) -> Stage:
    entry = leaf.entry
    roles = entry.roles(leaf.options)
    parts = tuple(Part(role, _models(team, role)) for role in roles)
    return Stage(entry.slug, entry.summary, *_spans(leaf.shape), parts)


def _models(team: Team, role: Role) -> tuple[str, ...]:
    return tuple(dict.fromkeys(member.model for member in team.members_for(role)))


def _spans(shape: Shape) -> tuple[Span, Span]:
    calls = Span(shape.least_calls, shape.most_calls)
    return calls, Span(shape.least_rounds, shape.most_rounds)
