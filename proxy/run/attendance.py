"""Which members of an ensemble were there, and whether that is enough."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from proxy.ensembles import Team
from proxy.errors import EmptyReply, TooFewMembers, UpstreamError, UpstreamRejected

#: What says nothing against the member that was asked: the request is at fault, or the model.
_PRESENT = (UpstreamRejected, EmptyReply)


@dataclass(slots=True)
class Attendance:
    """Of one request, by models: who has answered, and who could not be asked."""

    landed: set[str] = field(default_factory=set)
    #: With the last error of each.
    missing: dict[str, UpstreamError] = field(default_factory=dict)

    def land(self, model: str) -> None:
        """It has answered, and is there again if it was missing."""
        self.landed.add(model)
        self.missing.pop(model, None)

    def miss(self, model: str, error: UpstreamError) -> None:
        """A call to it has failed for good."""
        if not isinstance(error, _PRESENT):
            self.missing[model] = error

    def check(self, team: Team, under_way: Container[str]) -> None:
        """Raise `TooFewMembers` where the proposers that are left are not enough.

        Who has answered before is not lost, nor is who may still answer: ``under_way`` are the
        models that are being asked.
        """
        proposers = [member.model for member in team.members_for("proposer")]
        lost = {
            model: error
            for model, error in self.missing.items()
            if model in proposers and model not in self.landed and model not in under_way
        }
        there = sum(model not in lost for model in proposers)
        if lost and there < team.min_successful:
            raise TooFewMembers(lost, there, team.min_successful) from lost[next(iter(lost))]
