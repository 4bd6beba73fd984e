"""What a request will run, decided before the first call; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from proxy.approach import Entry
from proxy.chat import Chat
from proxy.errors import BadRequest, BudgetTooSmall
from proxy.pipeline import Branch, Leaf, compile_branch
from proxy.registry import Registry, checked_options
from proxy.selector import Selector, find_tag, select, with_base
from proxy.settings import Limits, Settings
from proxy.tasks import task_of
from proxy.wire.request import ChatRequest


@dataclass(frozen=True, slots=True)
class Plan:
    """A request with everything settled that the engine needs to run it."""

    request: ChatRequest
    chat: Chat
    base: str
    branches: tuple[Branch, ...]
    #: Choices for each branch; a response has ``len(branches) * choices``.
    choices: int
    limits: Limits
    seconds: float
    #: Whether the providers of proxy_config.yaml serve it.
    pooled: bool = False
    #: The chore that this request was recognised as, and that no approach is spent on.
    task: str | None = None

    @property
    def approach(self) -> str:
        return "|".join(branch.label for branch in self.branches)

    @property
    def untouched(self) -> bool:
        """Whether the request goes through as it came."""
        return len(self.branches) == 1 and self.branches[0].node is None

    def choice_by_choice(self, registry: Registry) -> Plan:
        """The same request with a run of ``none`` for each choice."""
        return replace(self, branches=(replace(self.branches[0], node=Leaf(registry["none"], {})),))

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
) -> Plan:
    """Settle a request; raises `BadRequest` for what cannot be run."""
    tag = None
    if settings.allow_prompt_tags:
        tag, messages = find_tag(request.messages)
        if tag is not None:
            request = replace(request, messages=list(messages))
    selector = select(
        request.model or settings.model,
        registry,
        known,
        default_base=settings.model,
        default_approach=settings.approach,
        body_approach=request.approach,
        tag=tag,
    )
    if request.base_model is not None:
        selector = with_base(selector, request.base_model)
    selected = {entry.slug: entry for branch in selector.branches for entry in branch}
    request, options = _options(request, selected, registry, settings)
    chat = Chat(messages=tuple(request.messages), params=request.params)
    limits = request.limits.within(settings.limits)
    choices = settings.choices if request.choices is None else request.choices
    task = task_of(request.messages, request.params, task_header, settings.task_patterns)
    branches = _branches(selector, registry, chat, options)
    if task is not None:
        reason = f"{selector.approach}: the request is an auxiliary task"
        skipped = () if selector.approach == "none" else (reason,)
        branches = (Branch("none", None, skipped),)
    plan = Plan(
        request=request,
        chat=chat,
        base=selector.base,
        branches=branches,
        task=task,
        pooled=selector.pooled or request.pooled,
        choices=choices,
        limits=limits,
        seconds=min(settings.request_timeout, limits.max_seconds or settings.request_timeout),
    )
    _check_size(plan, settings)
    return plan


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
        branches = [
            replace(branch, node=Leaf(none, {})) if branch.node is None else branch
            for branch in branches
        ]
    return tuple(branches)


def _values(options: Mapping[str, Mapping[str, Any]], entry: Entry) -> Mapping[str, Any]:
    return {**entry.defaults, **options.get(entry.slug, {})}


def _options(
    request: ChatRequest, selected: Mapping[str, Entry], registry: Registry, settings: Settings
) -> tuple[ChatRequest, Mapping[str, Mapping[str, Any]]]:
    """Options by slug: the server's, then the peer's names in the body, then ``optillm_options``.

    A plain name reaches every selected approach that has it, ``slug.name`` only that one. The
    request comes back without the members that were options under a peer's name.
    """
    values: dict[str, dict[str, Any]] = {slug: {} for slug in selected}
    for name, value in settings.options.items():
        slug, _, option = name.partition(".")
        if slug in values:
            values[slug][option] = value
    taken = set()
    for slug, entry in selected.items():
        for alias in entry.mark.aliases.keys() & request.params.keys():
            values[slug].update(checked_options(entry, {alias: request.params[alias]}))
            taken.add(alias)
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
                f"No approach of this request ({', '.join(selected) or 'none'}) has an option "
                f"'{name}'. Known: {', '.join(known) or 'none'}.",
                code="unknown_option",
                param=f"optillm_options.{name}",
            )
        for entry in having:
            values[entry.slug].update(checked_options(entry, {name: value}))
    if taken:
        params = {k: v for k, v in request.params.items() if k not in taken}
        request = replace(request, params=params)
    return request, values


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
