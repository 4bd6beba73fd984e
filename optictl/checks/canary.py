"""One question all the way."""

from __future__ import annotations

from optictl.box import Box
from optictl.checking import Finding, check, fail, ok, skipped
from optictl.gateway_site import reading, site_config
from optictl.own_host import this_host
from proxy.hops import LoopDetected

_APPROACH = "self_consistency"
_SAMPLES = 3
#: Seconds for a cold model.
_PATIENCE = 180.0


@check(group="gateway", pace="deep", network=True)
def canary(box: Box) -> Finding:
    """A question to an approach is answered, from several calls, and nothing goes in a loop.

    It goes through LiteLLM by the first handle in `gateway.router` that leads to the proxy and can
    carry it; where there is none, straight to the proxy.
    """
    if box.machine.degraded:
        return skipped("no approach runs: see the check degraded")
    selector = f"{_APPROACH}-{box.machine.site.proxy.base_model}"
    gateway = box.machine.site.gateway
    handle = _handle(box, selector)
    url, key, way = f"{box.url}/v1", box.proxy_key, "straight to the proxy"
    if gateway is not None and handle is not None:
        url, key, way = gateway.base_url, box.master_key, f"through LiteLLM as {handle}"
    body = {
        "model": handle or selector,
        "messages": [{"role": "user", "content": "What is 17 * 23? Answer with the number."}],
        "max_tokens": 256,
        "optillm_options": {f"{_APPROACH}.samples": _SAMPLES},
    }
    answer = box.post(f"{url}/chat/completions", body, key, timeout=_PATIENCE)
    said = {name.removeprefix("llm_provider-"): value for name, value in answer.headers.items()}
    code = said.get("x-optillm-error")
    if code == LoopDetected.code:
        loop = f"{way}: LiteLLM sends the base model back to the proxy"
        return fail(
            loop, f"lead its entry in LiteLLM's configuration to a backend, not to {box.url}"
        )
    if answer.status_code != 200:
        what = f"{way}: HTTP {answer.status_code}{f' ({code})' if code else ''}"
        return fail(what, box.optictl("logs"))
    calls = said.get("x-optillm-calls", "")
    if not calls.isdecimal():
        return fail(f"{way}: the answer did not come from the proxy", box.optictl("check port"))
    if int(calls) < 2:
        what = f"{way}: {calls} call, and {_APPROACH} makes several"
        return fail(what, f"lead the handle to {selector}")
    return ok(f"{way}: {_APPROACH} answered after {calls} calls")


def _handle(box: Box, selector: str) -> str | None:
    """A name at LiteLLM that arrives at the proxy as ``selector``."""
    config, host = site_config(box.machine, reading(box.machine)), this_host(box.proc)
    for entry in config.entries if config else ():
        if not host.listens(entry.api_base, box.machine.site.proxy.port):
            continue
        # A star stands for the same on both sides.
        before, star, after = entry.model.partition("*")
        if star and selector.startswith(before) and selector.endswith(after):
            middle = selector[len(before) : len(selector) - len(after)]
            return entry.name.replace("*", middle, 1)
        if entry.model == selector:
            return entry.name
    return None
