"""One question all the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from optictl.box import Box
from optictl.checking import Finding, check, fail, ok
from optictl.key_places import read_key
from optictl.site import Gateway, KeyPlace
from proxy.errors import ConfigError
from proxy.hops import LoopDetected
from proxy.located import parse

_APPROACH = "self_consistency"
_SAMPLES = 3
#: Seconds for a cold model.
_PATIENCE = 180.0
_REFERENCE = "os.environ/"


@check(group="gateway", pace="deep", network=True)
def canary(box: Box) -> Finding:
    """A question to an approach is answered, from several calls, and nothing goes in a loop.

    It goes through LiteLLM by the first handle in `gateway.router` that leads to the proxy and can
    carry it; where there is none, straight to the proxy.
    """
    selector = f"{_APPROACH}-{box.machine.site.proxy.base_model}"
    gateway = box.machine.site.gateway
    handle = next(_handles(box, gateway, selector), None) if gateway else None
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


def _handles(box: Box, gateway: Gateway, selector: str) -> Iterator[str]:
    """Names at LiteLLM that arrive at the proxy as ``selector``."""
    if gateway.router is None:
        return
    path = Path(gateway.router)
    file = box.machine.system.read(path)
    if file is None:
        return
    entries = parse(file.content.decode(errors="replace"), path).value.get("model_list")
    for entry in entries if isinstance(entries, list) else []:
        params = entry.get("litellm_params") if isinstance(entry, dict) else None
        if not isinstance(params, dict) or not isinstance(entry.get("model_name"), str):
            continue
        base = _resolved(gateway, params.get("api_base"))
        if urlsplit(base).port != box.machine.site.proxy.port:
            continue
        # LiteLLM cuts the provider's name off; a star stands for the same on both sides.
        before, star, after = (
            _resolved(gateway, params.get("model")).partition("/")[2].partition("*")
        )
        if star and selector.startswith(before) and selector.endswith(after):
            middle = selector[len(before) : len(selector) - len(after)]
            yield entry["model_name"].replace("*", middle, 1)
        elif not star and before == selector:
            yield entry["model_name"]


def _resolved(gateway: Gateway, value: Any) -> str:
    """A value of LiteLLM's configuration, which may name a variable of its env file."""
    text = value if isinstance(value, str) else ""
    if not text.startswith(_REFERENCE) or gateway.env_file is None:
        return text
    try:
        place = KeyPlace(env_file=gateway.env_file, name=text.removeprefix(_REFERENCE))
        return read_key(place).reveal()
    except ConfigError:
        return ""
