"""Ensembles in LiteLLM: switched on and off, their members warmed, the handle tried."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optictl.box import Box, NoAnswer, said_json
from optictl.errors import EnsembleFailed
from optictl.gateway_site import site_graph
from optictl.install import Proposal
from optictl.machine import Machine
from proxy.ensembles import Ensemble

#: Seconds for a member's first answer: its model may have to be loaded.
_COLD = 300.0
#: Tokens of the answer that the handle is tried with.
_TRIAL = 16

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tried:
    """Seconds until each member, and then the handle, had answered."""

    handle: float
    members: Mapping[str, float] = field(default_factory=dict)
    #: Members that did not answer, and what came instead.
    missing: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "handle": round(self.handle, 3),
            "members": {model: round(seconds, 3) for model, seconds in self.members.items()},
            "missing": dict(self.missing),
        }


def switched(machine: Machine, name: str, *, off: bool, litellm: str | None = None) -> Machine:
    """The machine with the ensemble ``name`` in LiteLLM, or without it.

    ``litellm`` is LiteLLM's version, where it tells. Raises `UsageError` for a name that the site
    cannot have; one that is off already may be any name.
    """
    others = [handle for handle in machine.handles if handle != name]
    version = None if litellm is None else _version(litellm)
    if off:
        return machine.wired_as(others, version)
    # In its old place where it has one: nothing is to be written then.
    handles = machine.handles if name in machine.handles else (*others, name)
    made = machine.wired_as(handles, version)
    # For what it refuses: before anything is shown.
    _ = made.ensembles
    return made


def refuse_loops(machine: Machine, proposal: Proposal) -> None:
    """Raise `ConfigError` with every way on which a request would come back to the proxy."""
    to_write = {
        change.path: b"" if change.after is None else change.after.content
        for change in proposal.plan.changes
    }
    graph = site_graph(machine, to_write=to_write)
    if graph is not None:
        graph.refuse_loops()


def try_out(box: Box, ensemble: Ensemble, tell: Tell, *, warm: bool = True) -> Tried:
    """Ask every member once through LiteLLM, then the handle.

    Raises `EnsembleFailed` where fewer proposers than it needs answer, or the handle does not.
    """
    members: dict[str, float] = {}
    missing: dict[str, str] = {}
    for model in dict.fromkeys(member.model for member in ensemble.team.members if warm):
        seconds, trouble = _ask(box, model, 1)
        if trouble:
            missing[model] = trouble
            tell(f"{model}: {trouble}")
        else:
            members[model] = seconds
            tell(f"{model}: answered after {seconds:.1f} s")
    proposers = {member.model for member in ensemble.team.members_for("proposer")}
    there = len(proposers - missing.keys())
    if there < min(ensemble.team.min_successful, len(proposers)):
        said = "; ".join(f"{model}: {trouble}" for model, trouble in missing.items())
        raise EnsembleFailed(f"{ensemble.name}: too few of its members answer: {said}")
    seconds, trouble = _ask(box, ensemble.name, _TRIAL)
    if trouble:
        raise EnsembleFailed(f"{ensemble.name}: {trouble}")
    tell(f"{ensemble.name}: answered after {seconds:.1f} s")
    return Tried(seconds, members, missing)


def _ask(box: Box, model: str, tokens: int) -> tuple[float, str]:
    """Seconds until LiteLLM had an answer of ``model``, and what was wrong with it, if anything."""
    gateway = box.machine.site.gateway
    assert gateway is not None  # its files have just been written
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": tokens,
    }
    began = time.monotonic()
    try:
        url = f"{gateway.base_url}/chat/completions"
        answer = box.post(url, body, box.master_key, timeout=_COLD)
    except NoAnswer as nothing:
        return time.monotonic() - began, str(nothing)
    said = said_json(answer)
    if answer.status_code == 200 and said.get("choices"):
        return time.monotonic() - began, ""
    error = said.get("error")
    words = error.get("message") if isinstance(error, dict) else None
    return time.monotonic() - began, f"HTTP {answer.status_code}: {str(words or 'no answer')[:300]}"


def _version(text: str) -> tuple[int, ...] | None:
    """``1.106.2`` as numbers; None for what is none."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else None
