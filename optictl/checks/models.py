"""What the proxy can be asked for."""

from __future__ import annotations

from optictl.box import Box, model_names
from optictl.checking import Finding, check, fail, ok


@check(group="proxy", pace="fast", network=True)
def models(box: Box) -> Finding:
    """The proxy lists the upstream's models at /v1/models.

    A list that it had once is kept while the upstream is away.
    """
    answer = box.get(f"{box.url}/v1/models", box.proxy_key)
    if answer.status_code == 401:
        return fail("the proxy refuses proxy.key", box.optictl("check auth"))
    names = model_names(answer)
    if answer.status_code != 200 or names is None:
        code = answer.headers.get("x-optillm-error", "no list")
        return fail(f"HTTP {answer.status_code} ({code})", box.optictl("check upstream"))
    if not names:
        return fail("the list is empty", box.optictl("check upstream"))
    return ok(f"{len(names)} model{'s' if len(names) > 1 else ''}")
