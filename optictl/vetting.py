"""An ensemble looked at before LiteLLM gets it: what could not work is not written."""

from __future__ import annotations

from collections.abc import Callable

from optictl.ensembling import graph_after
from optictl.gateway import Graph, Node
from optictl.gateway_config import Mapped
from optictl.install import Proposal
from optictl.litellm_entries import variable
from optictl.machine import Machine
from proxy.ensembles import Ensemble
from proxy.errors import ConfigError
from proxy.strict import did_you_mean


def vet(machine: Machine, proposal: Proposal, name: str, tell: Callable[[str], None]) -> None:
    """Look at LiteLLM's files as ``proposal`` would leave them, with the ensemble ``name`` on.

    ``tell`` hears of members that LiteLLM does not have and that can be spared. Raises
    `ConfigError` where a request would come back to the proxy, somebody else's entry has the
    handle's name or its variables', or LiteLLM has too few of the members.
    """
    graph = graph_after(machine, proposal)
    if graph is None:
        return
    graph.refuse_loops()
    _refuse_namesakes(graph, name)
    [ensemble] = [each for each in machine.ensembles if each.name == name]
    _refuse_too_few(graph, ensemble, tell)


def _refuse_namesakes(graph: Graph, name: str) -> None:
    for entry, _ in graph.config.listed():
        other = entry["model_name"]
        info = entry.get("model_info")
        ours = isinstance(info, Mapped) and info.get("id") == f"optictl-{name}"
        if ours or variable(other) != variable(name):
            continue
        where = entry.at("model_name")
        if other == name:
            raise ConfigError(
                f"{where}: {name} is an entry of somebody else's, and LiteLLM would pick one of "
                "the two for each call; remove it, or rename it"
            )
        raise ConfigError(
            f"{where}: '{other}' and '{name}' would both be {variable(name)}_MODEL; "
            "rename one of them"
        )


def _refuse_too_few(graph: Graph, ensemble: Ensemble, tell: Callable[[str], None]) -> None:
    if _has_more(graph):
        return
    named = {each.name for each in graph.config.entries}
    absent = {
        edge.to.name: f"LiteLLM has no entry {edge.to.name}{did_you_mean(edge.to.name, named)}"
        for edge in graph.edges(Node("proxy", ensemble.name))
        if edge.to.where == "gateway" and not graph.config.resolve(edge.to.name)
    }
    proposers = {member.model for member in ensemble.team.members_for("proposer")}
    there = len(proposers - absent.keys())
    if there < min(ensemble.team.min_successful, len(proposers)):
        said = "; ".join(absent.values())
        raise ConfigError(
            f"{ensemble.name}: too few of its members are there: {said}; add it, or name another "
            "model in the site or in the registry"
        )
    for said in absent.values():
        tell(f"{ensemble.name} goes on without a member: {said}")


def _has_more(graph: Graph) -> bool:
    """Whether LiteLLM has models that stand in none of its files: those of its database."""
    setting = graph.config.section("general_settings").get("store_model_in_db")
    return setting is True or graph.config.variables.get("STORE_MODEL_IN_DB", "").lower() == "true"
