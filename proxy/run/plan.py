"""What a request will run, decided before the first call; pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from proxy.approach import Entry
from proxy.chat import Chat
from proxy.ensembles import Ensemble, Team, effort_of, handle_key
from proxy.errors import BadRequest, BudgetTooSmall
from proxy.pipeline import Branch, compile_branch
from proxy.registry import Registry, checked_options
from proxy.run.bodies import over
from proxy.selector import Selector, find_tag, select
from proxy.settings import Limits, Settings
from proxy.tasks import task_of
from proxy.wire.request import ChatRequest


@dataclass(frozen=True, slots=True)
class Plan:
    """A request with everything settled that the engine needs to run it."""

    request: ChatRequest
    chat: Chat
    base: str
    #: Who plays which part; one model in all of them, but for an ensemble.
    team: Team
    branches: tuple[Branch, ...]
    #: Choices for each branch; a response has ``len(branches) * choices``.
    choices: int
    limits: Limits
    seconds: float
    #: What is set for the approaches that ``router`` may choose, by slug.
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Whether programs may run for it.
    acts: bool = True
    #: Whether the providers of proxy_config.yaml serve it.
    pooled: bool = False
    #: Its name, where the base is one.
    ensemble: str | None = None
    #: What the client was told to call it, where that is not the base.
    handle: str | None = None
    #: The chore that this request was recognised as, and that no approach is spent on.
    task: str | None = None

    @property
    def approach(self) -> str:
        return "|".join(branch.label for branch in self.branches)

    @property
    def untouched(self) -> bool:
        """Whether the request goes through as it came."""
        return len(self.branches) == 1 and self.branches[0].node is None

    @property
    def routed(self) -> bool:
        """Whether the router is asked."""
        return any("router" in branch.label.split("&") for branch in self.branches)

    def choice_by_choice(self, registry: Registry) -> Plan:
        """The same request with a run of ``none`` for each choice."""
        return replace(self, branches=(self.branches[0].played(registry["none"]),))

    @property
    def total_choices(self) -> int:
        return len(self.branches) * self.choices


def make_plan(
    request: ChatRequest,
    registry: Registry,
    known: Collection[str],
    settings: Settings,
    *,
    task_header: str = "",
    automatic: str | None = None,
) -> Plan:
    """Settle a request; raises `BadRequest` for what cannot be run.

    ``known`` are the names of the upstream's models; the ensembles are in ``settings``.
    ``automatic`` is the approach that ``auto`` means, if any.
    """
    tag = None
    if settings.allow_prompt_tags:
        tag, messages = find_tag(request.messages)
        if tag is not None:
            request = replace(request, messages=list(messages))
    asked = request.model or settings.model
    model = settings.aliases.get(handle_key(asked), asked) if settings.aliases else asked
    selector = select(
        model,
        registry,
        with_ensembles(known, settings),
        default_base=settings.model,
        default_approach=settings.approach,
        body_approach=request.approach,
        tag=tag,
        base_model=request.base_model,
        own={name: ensemble.approach for name, ensemble in settings.ensembles.items()},
        automatic=automatic,
    )
    ensemble = settings.ensembles.get(selector.base)
    limits = settings.limits
    selected = {entry.slug: entry for branch in selector.branches for entry in branch}
    if ensemble is not None:
        own = re.split(r"[&|]", ensemble.approach)
        meant = [*selected.values(), *(registry[slug] for slug in own if slug in registry)]
        params = {n: v for n, v in ensemble.params.items() if not _is_option(n, registry, meant)}
        request = replace(request, params=over(params, request.params))
        limits = ensemble.limits.within(limits)
    request, options = _options(request, selected, registry, settings, ensemble)
    chat = Chat(messages=tuple(request.messages), params=request.params)
    limits = request.limits.within(limits)
    choices = settings.choices if request.choices is None else request.choices
    task = task_of(request.messages, request.params, task_header, settings.task_patterns)
    branches = _branches(selector, registry, chat, options)
    team = Team.of(selector.base) if ensemble is None else ensemble.team
    called = ensemble is not None or model != asked
    if task is not None:
        team = team.led_by("helper")
        branches = _none(selector, "the request is an auxiliary task")
    elif settings.degraded:
        branches = _none(selector, "the service is degraded")
    if ensemble is not None:
        # A member's parameters and its stand-ins are the business of an `LLM`.
        branches = tuple(branch.played(registry["none"]) for branch in branches)
    plan = Plan(
        request=request,
        chat=chat,
        base=selector.base,
        team=team,
        branches=branches,
        options=options if "router" in selected else {},
        acts=selector.source != "tag",
        ensemble=None if ensemble is None else ensemble.name,
        handle=asked if called else None,
        task=task,
        pooled=selector.pooled or request.pooled,
        choices=choices,
        limits=limits,
        seconds=min(settings.request_timeout, limits.max_seconds or settings.request_timeout),
    )
    _check_size(plan, settings)
    return plan


def with_ensembles(known: Collection[str], settings: Settings) -> Collection[str]:
    """Which names there are: the upstream's and our own."""
    return {*known, *settings.ensembles} if settings.ensembles else known


def _none(selector: Selector, reason: str) -> tuple[Branch, ...]:
    """``none`` in place of what was selected."""
    skipped = () if selector.approach == "none" else (f"{selector.approach}: {reason}",)
    return (Branch("none", None, skipped),)


def _branches(
    selector: Selector,
    registry: Registry,
    chat: Chat,
    options: Mapping[str, Mapping[str, Any]],
) -> tuple[Branch, ...]:
    none = registry["none"]
    values = partial(_values, options)
    branches = [compile_branch(stages, none, chat, values) for stages in selector.branches]
    if len(branches) > 1:
        branches = [branch.played(none) for branch in branches]
    return tuple(branches)


def _values(options: Mapping[str, Mapping[str, Any]], entry: Entry) -> Mapping[str, Any]:
    return {**entry.defaults, **options.get(entry.slug, {})}


def _options(
    request: ChatRequest,
    selected: Mapping[str, Entry],
    registry: Registry,
    settings: Settings,
    ensemble: Ensemble | None,
) -> tuple[ChatRequest, Mapping[str, Mapping[str, Any]]]:
    """Options by slug: the server's, then the ensemble's, then those in the body.

    Those in the body have the peer's names or stand in ``optillm_options``. Unless it is told
    otherwise, what draws several samples draws at least one from each of an ensemble's proposers.
    A plain name reaches every selected approach that has it, ``slug.name`` only that one. What the
    router may choose counts as selected, except for plain names of an ensemble, which are rather
    its models'. The request comes back without the members that were options under a peer's name.
    """
    meant = selected
    if "router" in selected:
        selected = {entry.slug: entry for entry in registry}
    values: dict[str, dict[str, Any]] = {slug: {} for slug in selected}
    for name, value in settings.options.items():
        slug, _, option = name.partition(".")
        if slug in values:
            values[slug][option] = value
    if ensemble is not None:
        if "router" in meant:
            values["router"].setdefault("effort", effort_of(ensemble.name))
        proposers = len(ensemble.team.members_for("proposer"))
        for slug, entry in selected.items():
            samples = values[slug].get("samples", entry.defaults.get("samples", 0))
            if 1 < samples < proposers:
                values[slug]["samples"] = proposers
            for name, value in ensemble.params.items():
                option = name.removeprefix(f"{slug}.")
                if (slug in meant or option != name) and entry.option(option) is not None:
                    values[slug].update(checked_options(entry, {option: value}))
    aliases = {alias for entry in selected.values() for alias in entry.mark.aliases}
    taken = aliases & request.params.keys()
    for alias in taken:
        having = [entry for entry in selected.values() if alias in entry.mark.aliases]
        _set(values, having, alias, request.params[alias], meant)
    for name, value in request.options.items():
        slug, dot, option = name.partition(".")
        if dot:
            checked = checked_options(registry.checked(slug), {option: value})
            values.get(slug, {}).update(checked)
            continue
        having = [entry for entry in selected.values() if entry.option(name) is not None]
        if not having:
            known = sorted({o for entry in selected.values() for o in entry.options})
            raise BadRequest(
                f"No approach of this request ({', '.join(meant) or 'none'}) has an option "
                f"'{name}'. Known: {', '.join(known) or 'none'}.",
                code="unknown_option",
                param=f"optillm_options.{name}",
            )
        _set(values, having, name, value, meant)
    if taken:
        params = {k: v for k, v in request.params.items() if k not in taken}
        request = replace(request, params=params)
    return request, values


def _set(
    values: Mapping[str, dict[str, Any]],
    having: Sequence[Entry],
    name: str,
    value: Any,
    meant: Collection[str],
) -> None:
    """Set an option of all that have it; raises `BadRequest` where one that is ``meant`` refuses.

    What the router may choose need not take it, unless none of them does.
    """
    refusals: dict[str, BadRequest] = {}
    for entry in having:
        try:
            values[entry.slug].update(checked_options(entry, {name: value}))
        except BadRequest as error:
            refusals[entry.slug] = error
    for slug, refusal in refusals.items():
        if slug in meant or len(refusals) == len(having):
            raise refusal


def _is_option(name: str, registry: Registry, meant: Sequence[Entry]) -> bool:
    """Whether a parameter of an ensemble is for an approach, and not for its models.

    A plain name is one of the approaches that are ``meant``: others may call a parameter so.
    """
    slug, dot, _ = name.partition(".")
    return (dot and slug in registry) or any(entry.option(name) for entry in meant)


def _check_size(plan: Plan, settings: Settings) -> None:
    if plan.total_choices > settings.max_choices:
        raise BadRequest(
            f"{plan.total_choices} choices are more than this server gives "
            f"({settings.max_choices}; see --max-choices).",
            code="too_many_choices",
            param="n",
        )
    least = sum(branch.shape.least_calls for branch in plan.branches) * plan.choices
    if plan.limits.max_calls is not None and plan.limits.max_calls < least:
        raise BudgetTooSmall(
            f"'{plan.approach}' needs at least {least} calls, the budget allows "
            f"{plan.limits.max_calls}.",
            param="optillm_budget.max_calls",
        )
