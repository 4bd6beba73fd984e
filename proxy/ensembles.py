"""Who plays which part: the members of an ensemble and their roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["proposer", "aggregator", "judge", "critic", "helper"]

#: Who stands in where a role has no member of its own.
_STAND_IN: Mapping[str, Role] = {
    "aggregator": "proposer",
    "judge": "aggregator",
    "critic": "judge",
    "helper": "proposer",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A model in a role; ``params`` go before the client's own."""

    model: str
    role: Role = "proposer"
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Team:
    """At least one proposer; every role resolves to someone."""

    members: tuple[Member, ...]

    @classmethod
    def of(cls, model: str) -> Team:
        """One model that plays every part."""
        return cls((Member(model),))

    def members_for(self, role: Role) -> Sequence[Member]:
        """The members that play ``role``, or those that stand in for it.

        aggregator → first proposer, judge → aggregator, critic → judge, helper → last proposer.
        """
        own = tuple(member for member in self.members if member.role == role)
        if own or role == "proposer":
            return own or self.members
        stand_ins = self.members_for(_STAND_IN[role])
        return stand_ins[-1:] if role == "helper" else stand_ins[:1]

    def member(self, role: Role, *, nth: int = 0, not_model: str | None = None) -> Member:
        """The ``nth`` member for ``role``, cycling; never ``not_model`` where there is a choice."""
        members = self.members_for(role)
        others = [member for member in members if member.model != not_model]
        if not others and not_model is not None:
            others = [member for member in self.members if member.model != not_model]
        chosen = others or members
        return chosen[nth % len(chosen)]
