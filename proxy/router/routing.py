"""The ladder as an approach sees it: bound to one request, with what that one may run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from proxy.chat import Chat
from proxy.pipeline import treats
from proxy.router.checkpoint import LABELS
from proxy.router.ladder import Asked, Choice

if TYPE_CHECKING:
    from proxy.run.scope import Run


class Routing:
    """What ``llm.router`` is."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def asked(self, chat: Chat, allow: str, effort: float) -> Asked:
        """``chat`` with the approaches that ``allow`` names, those of the classifier where empty.

        An approach that would have to drop what the request carries, or whose fewest calls are more
        than its budget, is not among them. ``none`` is where nothing else is left. Raises
        `BadRequest` for a name that is no approach.
        """
        run = self._run
        registry, left = run.services.registry, run.budget.calls_left
        # What acts on the world is for the operator and the client to choose, not for a prompt.
        usual = (slug for slug in LABELS if slug in registry and registry[slug].mark.kind != "tool")
        named = dict.fromkeys(slug.strip() for slug in allow.split(",") if slug.strip()) or usual
        allowed = []
        for slug in named:
            entry = registry.checked(slug, "optillm_options.allow")
            least = entry.shape(self.options(slug)).least_calls
            if slug != "router" and treats(entry, chat) and (left is None or least <= left):
                allowed.append(slug)
        return Asked(chat, tuple(allowed) or ("none",), effort, run.caller.tenant)

    def options(self, slug: str) -> Mapping[str, Any]:
        """What operator, ensemble and client have set for an approach."""
        return self._run.options.get(slug, {})

    async def choose(self, asked: Asked) -> Choice:
        """See `Ladder.choose`."""
        return await self._run.services.ladder.choose(asked)

    def settle(self, asked: Asked, choice: Choice) -> None:
        """See `Ladder.settle`."""
        self._run.services.ladder.settle(asked, choice)

    def tell(self, choice: Choice) -> None:
        """For the trace, the headers and the metrics."""
        self._run.ledger.routes.append(choice)
        told = [(choice.slug, choice.confidence)]
        self._run.ledger.decide("router", "route", told, 0, str(choice))
