"""Ensembles in LiteLLM: switched on and off, their members warmed, the handle tried."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from optictl import warm_command
from optictl.box import Box, NoAnswer, said_json
from optictl.errors import EnsembleFailed
from optictl.gateway import Graph
from optictl.gateway_site import site_graph
from optictl.install import Proposal
from optictl.machine import Machine
from optictl.site import Gateway
from optictl.tried import Tried, remember
from proxy.ensembles import Ensemble

#: Seconds for a member's first answer: its model may have to be loaded.
_COLD = 300.0
#: Tokens of the answer that the handle is tried with.
_TRIAL = 16

Tell = Callable[[str], None]


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


def graph_after(machine: Machine, proposal: Proposal) -> Graph | None:
    """The routing graph as ``proposal`` would leave it. Raises as `site_graph` does."""
    to_write = {
        change.path: b"" if change.after is None else change.after.content
        for change in proposal.plan.changes
    }
    return site_graph(machine, to_write=to_write)


def refuse_loops(machine: Machine, proposal: Proposal) -> None:
    """Raise `ConfigError` with every way on which a request would come back to the proxy."""
    graph = graph_after(machine, proposal)
    if graph is not None:
        graph.refuse_loops()


def prove(box: Box, ensemble: Ensemble, tell: Tell, *, warm: bool = True) -> Tried:
    """`try_out`, and write down in our records what came of it."""
    system, records = box.machine.system, box.machine.records
    try:
        tried = try_out(box, ensemble, tell, warm=warm)
    except EnsembleFailed as error:
        remember(system, records, ensemble, str(error), time.time())
        raise
    remember(system, records, ensemble, tried, time.time())
    return tried


def try_out(box: Box, ensemble: Ensemble, tell: Tell, *, warm: bool = True) -> Tried:
    """Ask every member once through LiteLLM, after ``gateway.warm_command``; then the handle.

    Raises `EnsembleFailed` where that command fails, fewer proposers than it needs answer, or the
    handle does not.
    """
    if warm:
        _load(box, ensemble, tell)
    members: dict[str, float] = {}
    missing: dict[str, str] = {}
    model_map = box.machine.route.model_map
    for model in dict.fromkeys(member.model for member in ensemble.team.members if warm):
        # A base handle that goes through us would have an approach answer.
        seconds, trouble = _ask(box, model_map.get(model, model), 1)
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


def _load(box: Box, ensemble: Ensemble, tell: Tell) -> None:
    """Run the site's ``gateway.warm_command``, where it has one."""
    command = warm_command.filled(_gateway(box).warm_command, ensemble)
    if not command:
        return
    hide = _hiding(box)
    tell(f"load the members: {shlex.join(command)}")
    try:
        warm_command.run(command, lambda line: tell(hide(line)))
    except EnsembleFailed as error:
        raise EnsembleFailed(hide(str(error))) from None


def _hiding(box: Box) -> Callable[[str], str]:
    """Takes the site's keys out of what others say."""
    keys = [key for key in (box.master_key, box.upstream_key, box.proxy_key) if key is not None]

    def hide(text: str) -> str:
        for key in keys:
            text = key.redact(text)
        return text

    return hide


def _gateway(box: Box) -> Gateway:
    gateway = box.machine.site.gateway
    assert gateway is not None  # its files have just been written
    return gateway


def _ask(box: Box, model: str, tokens: int) -> tuple[float, str]:
    """Seconds until LiteLLM had an answer of ``model``, and what was wrong with it, if anything."""
    gateway = _gateway(box)
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
    told = _hiding(box)(str(words or "no answer"))[:300]
    return time.monotonic() - began, f"HTTP {answer.status_code}: {told}"


def _version(text: str) -> tuple[int, ...] | None:
    """``1.106.2`` as numbers; None for what is none."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else None
