"""Whether names lead where they should."""

from __future__ import annotations

from collections.abc import Iterator

from optictl.box import Box
from optictl.checking import Finding, check, fail, ok, skipped, warn
from optictl.gateway_mistakes import Mistake, duplicates, unknown_keys, unset
from optictl.gateway_site import site_graph
from optictl.own_host import this_host
from optictl.routing_site import standing


@check(group="gateway", pace="fast")
def routing(box: Box) -> Finding:
    """No model that the proxy calls leads back to it, and LiteLLM's files mean what they say.

    LiteLLM's configuration (`gateway.router` and what it includes, with the variables that it is
    started with), the selectors behind its handles, the `OPTILLM_<HANDLE>_MODEL` of the service,
    its providers' `model_map` and its ensembles are read as one graph, and no question is asked.
    It fails for a base model or a member of an ensemble that comes back, with the whole way, and
    for an `os.environ/` variable that is not set. It warns of what LiteLLM passes over in silence:
    a name that stands twice, of which it picks one for each call; a key that it does not know; a
    base model that it has no entry for; and of an MLX_ROUTE_VIA_OPTILLM that says otherwise than
    `optictl route`.
    """
    gateway = box.machine.site.gateway
    graph = site_graph(box.machine, host=this_host(box.proc))
    if gateway is None or graph is None:
        return skipped("gateway.router does not say where LiteLLM's configuration is")
    config = graph.config
    wrong = list(graph.loops())
    odd = [*duplicates(config), *unknown_keys(config)]
    # Without the file nobody knows whether a variable is set.
    (wrong if gateway.env_file else odd).extend(unset(config, gateway.env_file))
    if config.section("general_settings").get("store_model_in_db") is not True:
        odd += graph.missing()
    odd += _disagreement(box)
    told = [*wrong, *odd]
    if told:
        fixes = "\n".join(dict.fromkeys(each.fix for each in told))
        return (fail if wrong else warn)("\n".join(map(str, told)), fixes)
    handles = sum(1 for _ in graph.handles())
    return ok(f"{len(config.entries)} entries, {handles} of them to the proxy; nothing comes back")


def _disagreement(box: Box) -> Iterator[Mistake]:
    gateway = box.machine.site.gateway
    if gateway is None or gateway.env_file is None:
        return
    found = standing(box.machine)
    if found.disagrees:
        fix = f"switch with: optictl route {'on' if found.others else 'off'}; or mend it there"
        yield Mistake("switch", gateway.env_file, found.disagrees, fix)
