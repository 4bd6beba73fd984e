"""What an upstream was found not to accept, per model: learned once from its own refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.errors import UpstreamError, UpstreamRejected

#: Members we add ourselves; a refusal of one is no fault of the client's.
_OURS = ("stream_options",)


class Capabilities:
    """Refusals remembered by (model, member)."""

    def __init__(self) -> None:
        self._refused: set[tuple[str, str]] = set()

    def adapt(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        """``body`` without the members that ``model`` is known to refuse."""
        refused = [name for name in _OURS if name in body and (model, name) in self._refused]
        return {k: v for k, v in body.items() if k not in refused} if refused else body

    def learn(self, model: str, body: Mapping[str, Any], error: UpstreamError) -> bool:
        """Whether ``error`` refuses a member of ``body`` that can be left out next time."""
        if not isinstance(error, UpstreamRejected):
            return False
        said = f"{error.param} {error.message}"
        found = [(model, name) for name in _OURS if name in body and name in said]
        # Calls that were under way together are all refused, and all may go again.
        self._refused.update(found)
        return bool(found)
