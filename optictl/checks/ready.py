"""Whether the proxy says that it can serve."""

from __future__ import annotations

from optictl.box import Box, NoAnswer, said_json
from optictl.checking import Finding, check, fail, ok, warn


@check(group="proxy", pace="fast", network=True)
def ready(box: Box) -> Finding:
    """The proxy answers at /health/ready, its upstream is there, its last reload was taken.

    A reload whose files cannot be used is refused, and the previous configuration serves on until
    they are mended and read again.
    """
    url = f"{box.url}/health/ready"
    try:
        answer = box.get(url)
    except NoAnswer as error:
        return fail(str(error), box.optictl("logs"))
    said = said_json(answer)
    if "status" not in said or "providers" not in said:
        stranger = f"what answers at {url} is no optillm-proxy (HTTP {answer.status_code})"
        return fail(stranger, box.optictl("check port"))
    if said.get("reason") is not None:
        return fail(f"not ready: {said['reason']}", box.optictl("check upstream"))
    if said.get("reload") is not None:
        return warn(f"reload {said['reload']}", box.optictl("reload"))
    unwell = [f"{each['name']}: {each['reason']}" for each in said["providers"] if each["reason"]]
    if unwell:
        return warn(f"ready, but {'; '.join(unwell)}", box.optictl("check upstream"))
    failing = [
        f"{model} at {each['name']}"
        for each in said["providers"]
        for model in each["models_failing"]
    ]
    if failing:
        return warn(f"ready, but calls fail: {', '.join(failing)}", box.optictl("logs"))
    return ok("ready")
