"""Who plays which part: the members of an ensemble and their roles; and what handles stand for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from proxy.settings import Limits

Role = Literal["proposer", "aggregator", "judge", "critic", "helper"]
ROLES: tuple[Role, ...] = get_args(Role)

#: Who stands in where a role has no member of its own.
_STAND_IN: Mapping[str, Role] = {
    "aggregator": "proposer",
    "judge": "aggregator",
    "critic": "judge",
    "helper": "proposer",
}


#: What the parts of a tier's name promise; the classifier's authors ask with .7.
_SIZES: Mapping[str, float] = {"xl": 0.9, "l": 0.8, "m": 0.6, "s": 0.4}
_NO_SIZE = 0.7
_MODES: Mapping[str, float] = {"high": 0.1, "balanced": -0.05, "fast": -0.3}

#: The variable that says what a handle stands for. OPTILLM_MODEL is a setting.
_ALIAS = re.compile(r"OPTILLM_([A-Z0-9_]+)_MODEL")
_NO_VARIABLE = re.compile(r"[^A-Z0-9]")


@dataclass(frozen=True, slots=True)
class Member:
    """A model in a role; ``params`` go before the client's own, ``weight`` is that of its vote."""

    model: str
    role: Role = "proposer"
    params: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Team:
    """At least one proposer; every role resolves to someone."""

    members: tuple[Member, ...]
    #: How many proposers have to be there for an answer.
    min_successful: int = 1

    @classmethod
    def of(cls, model: str) -> Team:
        """One model that plays every part."""
        return cls((Member(model),))

    @property
    def mixed(self) -> bool:
        """Whether there is more than one model."""
        return len({member.model for member in self.members}) > 1

    def members_for(self, role: Role) -> Sequence[Member]:
        """The members that play ``role``, or those that stand in for it.

        aggregator → first proposer, judge → aggregator, critic → judge, helper → last proposer.
        """
        own = tuple(member for member in self.members if member.role == role)
        if own or role == "proposer":
            return own or self.members
        return self._stand_in(role)

    def member(
        self,
        role: Role,
        *,
        nth: int = 0,
        not_model: str | None = None,
        missing: Collection[str] = (),
    ) -> Member:
        """The ``nth`` member for ``role``, cycling; never ``not_model`` where there is a choice.

        Where all of them are ``missing`` models, whoever stands in next and is not; where everyone
        is, as if none were.
        """
        for avoided in (not_model, None):
            for members in self._line(role):
                asked = [member for member in members if member.model != avoided]
                there = [member for member in asked if member.model not in missing]
                if there:
                    # One that is missing does not move the turns of the others.
                    turn = asked[nth % len(asked)]
                    return turn if turn in there else there[nth % len(there)]
        members = self.members_for(role)
        return members[nth % len(members)]

    def led_by(self, role: Role) -> Team:
        """The same, with the member for ``role`` to answer and all others to stand in."""
        leader = self.member(role)
        others = (replace(member, role="proposer") for member in self.members if member != leader)
        return Team((replace(leader, role="aggregator"), *others))

    def _line(self, role: Role) -> Iterator[Sequence[Member]]:
        """Who plays ``role``, then who stands in for them, one after the other."""
        yield self.members_for(role)
        while role in _STAND_IN:
            yield self._stand_in(role)
            role = _STAND_IN[role]
        yield self.members

    def _stand_in(self, role: Role) -> Sequence[Member]:
        members = self.members_for(_STAND_IN[role])
        return members[-1:] if role == "helper" else members[:1]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """A name that is answered by a team: a row of the registry (`proxy.ensembles_file`).

    ``approach`` is a pipeline's text. ``params`` go under the client's own, ``limits`` cap those of
    a request.
    """

    name: str
    approach: str
    team: Team
    params: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    purpose: str = ""
    notes: str = ""


def effort_of(name: str) -> float:
    """How much thought an ensemble's name promises, from 0 to 1: ``opt-code-balanced-l`` .75.

    Its size says .9 (xl), .8 (l), .6 (m) or .4 (s), .7 where it has none; its mode adds .1 (high)
    or takes away .05 (balanced) or .3 (fast).
    """
    words = name.lower().split("-")
    size = next((_SIZES[word] for word in reversed(words) if word in _SIZES), _NO_SIZE)
    mode = next((_MODES[word] for word in words if word in _MODES), 0.0)
    return round(min(1.0, max(0.0, size + mode)), 2)


def aliases_of(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Model names by `handle_key`, from the variables ``OPTILLM_<HANDLE>_MODEL``."""
    found = ((_ALIAS.fullmatch(name), value) for name, value in environ.items())
    return {match[1]: value for match, value in found if match is not None and value}


def handle_key(handle: str) -> str:
    """A handle as it stands in a variable's name: ``opt-a-s`` and ``opt_a.s`` are ``OPT_A_S``."""
    return _NO_VARIABLE.sub("_", handle.upper())
