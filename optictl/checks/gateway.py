"""The LiteLLM in front."""

from __future__ import annotations

import shlex

from optictl.box import Box, NoAnswer
from optictl.checking import Finding, check, fail, ok, skipped, warn

#: Releases on PyPI that steal credentials as soon as their Python starts (24 March 2026).
_POISONED = frozenset({"1.82.7", "1.82.8"})


@check(group="gateway", pace="fast", network=True)
def gateway(box: Box) -> Finding:
    """LiteLLM answers, and is no version that must not run.

    1.82.7 and 1.82.8 were put on PyPI by a thief: every key that they could read is to be changed.
    """
    declared = box.machine.site.gateway
    if declared is None:
        return skipped("the site names no gateway")
    try:
        answer = box.gateway_readiness
    except NoAnswer as error:
        return fail(str(error), shlex.join(declared.restart))
    if answer.status_code != 200:
        return fail(f"LiteLLM is not ready: HTTP {answer.status_code}", "look into its log")
    version = box.litellm_version
    if version is None:
        path = box.machine.loaded.path
        return warn("LiteLLM does not tell its version", f"set gateway.master_key in {path}")
    if version in _POISONED:
        said = f"LiteLLM {version} steals credentials"
        return fail(said, "install another version now, then change every key on this machine")
    return ok(f"LiteLLM {version} is ready")
