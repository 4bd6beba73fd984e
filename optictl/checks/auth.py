"""Who may use the proxy."""

from __future__ import annotations

from optictl.box import Box
from optictl.checking import Finding, check, fail, ok, skipped, warn
from proxy.errors import ConfigError
from proxy.settings import Secret

_WRONG = Secret("a-wrong-key-of-optictl-check")


@check(group="proxy", pace="fast", network=True)
def auth(box: Box) -> Finding:
    """The proxy refuses who has no key and who has a wrong one, and serves who has the right one.

    Without `proxy.key` every process of this machine can use it, and with it the upstream's key.
    """
    site = box.machine.site
    if site.proxy.key is None:
        said = "there is no key: whoever reaches the port may use the proxy"
        declare = f"set proxy.key in {box.machine.loaded.path}, then {box.optictl('install')}"
        return (fail if site.proxy.allow_external else warn)(said, declare)
    url = f"{box.url}/v1/models"
    for whose, key in (("no key", None), ("a wrong key", _WRONG)):
        status = box.get(url, key).status_code
        if status != 401:
            return fail(f"{whose} is answered with HTTP {status}, not 401", box.optictl("restart"))
    refused = "no key and a wrong key are refused"
    try:
        key = box.proxy_key
    except ConfigError as error:
        return skipped(f"{refused}; the right one cannot be tried: {error}")
    if box.get(url, key).status_code == 401:
        return fail(
            "the key of the site is refused: the proxy runs with another", box.optictl("install")
        )
    return ok(f"{refused}, the right one is taken")
