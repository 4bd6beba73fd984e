"""Whom the proxy asks where a request names nobody."""

from __future__ import annotations

from optictl.box import Box, model_names
from optictl.checking import Finding, check, fail, ok, skipped
from proxy.strict import did_you_mean


@check(group="upstream", pace="fast", network=True)
def base_model(box: Box) -> Finding:
    """The upstream lists `proxy.base_model`, under exactly this name.

    The warmup asks for it, and so does every request that names only an approach.
    """
    wanted = box.machine.site.proxy.base_model
    names = model_names(box.upstream_models)
    if names is None:
        return skipped("the upstream lists no models: see the check upstream")
    if wanted not in names:
        origin = box.machine.loaded.origins.get("proxy.base_model", box.machine.loaded.path)
        said = f"the upstream has no {wanted}{did_you_mean(wanted, names)}"
        return fail(said, f"mend proxy.base_model ({origin})")
    return ok(wanted)
