"""Whether a request that comes back ends there."""

from __future__ import annotations

from optictl.box import Box
from optictl.checking import Finding, check, fail, ok
from proxy.hops import HEADER, LoopDetected, instance_id

#: Seconds for a model's answer, where the request is not refused.
_PATIENCE = 60.0


@check(group="proxy", pace="deep", network=True)
def loop(box: Box) -> Finding:
    """The proxy refuses a request that has passed through it before.

    The request carries the mark of this very service, as one would that LiteLLM has sent back.
    """
    proxy = box.machine.site.proxy
    body = {
        "model": proxy.base_model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1,
    }
    answer = box.post(
        f"{box.url}/v1/chat/completions",
        body,
        box.proxy_key,
        timeout=_PATIENCE,
        headers={HEADER: instance_id(proxy.host, proxy.port)},
    )
    code = answer.headers.get("x-optillm-error")
    if (answer.status_code, code) == (400, LoopDetected.code):
        return ok("a request that has been here before is refused")
    said = f"a request that has been here before gets HTTP {answer.status_code}, not 400"
    return fail(f"{said} {LoopDetected.code}", box.optictl("check port drift"))
