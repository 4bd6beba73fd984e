"""``privacy&moa-gpt-4o``: which approaches, on which base model.

The grammar: branches joined by ``|``, stages joined by ``&``, then ``-`` and the base model. Slugs
are matched longest first; a first part that is no slug belongs to the model's name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from proxy.approach import Entry
from proxy.chat import text_of
from proxy.errors import BadRequest
from proxy.registry import POOL_SLUGS, Registry

#: Server defaults that mean: the model's prefix, else none.
_BY_PREFIX = frozenset({"auto", "proxy", ""})
_TAG = re.compile(r"<optillm_approach>([^<\n]{1,200})</optillm_approach>\s?")


@dataclass(frozen=True, slots=True)
class Selector:
    """What a request runs: at least one branch of stages, on a base model."""

    branches: tuple[tuple[Entry, ...], ...]
    base: str
    #: Where the approach was named: prefix, body, tag or default.
    source: str
    #: Whether ``proxy`` was named anywhere: the providers of proxy_config.yaml serve the request.
    pooled: bool = False

    @property
    def approach(self) -> str:
        """As it is reported: ``a&b|c``."""
        chains = ("&".join(entry.slug for entry in branch) for branch in self.branches)
        return "|".join(chain or "none" for chain in chains)


def select(
    model: str,
    registry: Registry,
    known: Collection[str],
    *,
    default_base: str,
    default_approach: str = "auto",
    body_approach: str | None = None,
    tag: str | None = None,
    base_model: str | None = None,
    own: Mapping[str, str] = MappingProxyType({}),
    automatic: str | None = None,
) -> Selector:
    """Read a model name; precedence is prefix, body, tag, the base's ``own``, server default.

    ``proxy`` names no approach, so whatever comes next in that order is heard behind it.
    ``base_model`` takes the place of the base that the name has, ``own`` are the approaches of
    those that have one: ensembles. ``automatic`` is what ``auto`` means, in the body (but for a
    base with an approach of its own) or as the server default; None: nothing in particular.
    ``known`` are the last good names of upstream models and ensembles. Raises `BadRequest` with
    the code unknown_approach, approach_not_built or invalid_selector.
    """
    chains, base = _split(model, registry, known)
    by_default = tuple(tuple(chain.split("&")) for chain in default_approach.split("|"))
    pooled = _names_pool(chains) or _names_pool(by_default)
    source = "default" if chains is None else "prefix"
    if not _names_approach(chains) and body_approach not in (None, "auto"):
        chains, source = _pipeline(body_approach, registry, "optillm_approach"), "body"
        pooled |= _names_pool(chains)
    if not _names_approach(chains) and tag is not None:
        chains, source = _pipeline(tag, registry, "messages"), "tag"
        pooled |= _names_pool(chains)
        _refuse_tools(chains, registry)
    base = base_model or base or default_base
    if body_approach == "auto" and automatic is not None:
        default_approach = "auto"
    default_approach = own.get(base, default_approach)
    if default_approach == "auto" and automatic is not None:
        default_approach = automatic
    if not _names_approach(chains) and default_approach not in _BY_PREFIX:
        chains, source = _pipeline(default_approach, registry, "model"), "default"
        pooled |= _names_pool(chains)
    branches = tuple(
        tuple(registry.checked(slug) for slug in chain if slug not in POOL_SLUGS)
        for chain in chains or ((),)
    )
    return Selector(branches=branches, base=base, source=source, pooled=pooled)


def find_tag(messages: Sequence[dict[str, Any]]) -> tuple[str | None, Sequence[dict[str, Any]]]:
    """The first approach tag and the messages without any.

    Only system messages and the last user turn are looked at: text that was quoted or retrieved
    into earlier turns must not choose what runs.
    """
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
    tag, cleaned = None, list(messages)
    for index, message in enumerate(messages):
        if message["role"] not in ("system", "developer") and index != last:
            continue
        found = _TAG.search(text_of(message.get("content")))
        if found is not None:
            tag = tag or found[1].strip()
            cleaned[index] = {**message, "content": _without_tag(message["content"])}
    return tag, cleaned


def suggestion(model: str, registry: Registry, known: Collection[str]) -> str:
    """What a model name that the upstream does not have may have meant, as a sentence or ''."""
    head, base = _head(model, registry)
    if head is None or not base:
        first, dash, rest = model.partition("-")
        near = difflib.get_close_matches(first, registry.slugs, n=1)
        if dash and near:
            return f" Did you mean '{near[0]}-{rest}'?"
        head, base = None, model
    # The upstream may refuse a name that it lists itself.
    others = [name for name in known if name != base]
    close = difflib.get_close_matches(base, others, n=1)
    prefix = "" if head is None else f"{head}-"
    return f" Did you mean '{prefix}{close[0]}'?" if close else ""


_Chains = tuple[tuple[str, ...], ...]


def _split(model: str, registry: Registry, known: Collection[str]) -> tuple[_Chains | None, str]:
    """The approaches in front of a model name, and the base behind them ('' for the default)."""
    head, rest = _head(model, registry)
    if head is None:
        return None, model
    if model in known and rest not in known:
        return None, model
    chains = _pipeline(head, registry, "model")
    if rest == "":
        raise BadRequest(
            f"Model '{model}' names an approach but no base model behind the dash.",
            code="invalid_selector",
            param="model",
        )
    if rest is not None and not _names_approach(chains):
        # What stands behind the pool is read as if it stood alone.
        inner, base = _split(rest, registry, known)
        first, *others = inner or ((),)
        return ((*chains[0], *first), *others), base
    return chains, rest or ""


def _head(model: str, registry: Registry) -> tuple[str | None, str | None]:
    """The pipeline in front and what follows its dash; None where the name has no pipeline."""
    position, any_known, operators = 0, False, False
    while True:
        slug = next((s for s in registry.slugs if _stands_at(model, s, position)), None)
        if slug is not None:
            any_known = True
            position += len(slug)
        else:
            position = _end_of_member(model, position)
        following = model[position : position + 1]
        if following in ("&", "|"):
            operators = True
            position += 1
            continue
        if not any_known or (slug is None and not operators):
            return None, None
        if following == "":
            return model, None
        return model[:position], model[position + 1 :]


def _stands_at(model: str, slug: str, position: int) -> bool:
    end = position + len(slug)
    return model.startswith(slug, position) and model[end : end + 1] in ("", "-", "&", "|")


def _end_of_member(model: str, position: int) -> int:
    for end in range(position, len(model)):
        if model[end] in "-&|":
            return end
    return len(model)


def _pipeline(text: str, registry: Registry, param: str) -> _Chains:
    chains = []
    for branch in text.split("|"):
        slugs = tuple(slug.strip() for slug in branch.split("&"))
        if not all(slugs):
            raise BadRequest(
                f"'{text}' is no pipeline: a name is missing beside '&' or '|'.",
                code="invalid_selector",
                param=param,
            )
        for slug in slugs:
            if slug not in POOL_SLUGS:
                registry.checked(slug, param)
        chains.append(slugs)
    return tuple(chains)


def _names_approach(chains: _Chains | None) -> bool:
    return any(slug not in POOL_SLUGS for chain in chains or () for slug in chain)


def _names_pool(chains: _Chains | None) -> bool:
    return any(slug in POOL_SLUGS for chain in chains or () for slug in chain)


def _refuse_tools(chains: _Chains, registry: Registry) -> None:
    for slug in (slug for chain in chains for slug in chain if slug in registry):
        if registry[slug].mark.kind == "tool":
            raise BadRequest(
                f"Approach '{slug}' cannot be chosen by a tag in the prompt: it acts on the world.",
                code="tag_not_allowed",
                param="messages",
            )


def _without_tag(content: Any) -> Any:
    if isinstance(content, str):
        return _TAG.sub("", content)
    return [
        {**part, "text": _TAG.sub("", part["text"])} if isinstance(part.get("text"), str) else part
        for part in content
    ]
