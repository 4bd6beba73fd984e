"""The settings."""

from __future__ import annotations

from optictl.box import Box
from optictl.checking import Finding, check, ok


@check(group="settings", pace="fast")
def settings(box: Box) -> Finding:
    """The site can be read, all its files can be rendered, and the service can use its own.

    It fails with file, line and column where a value is wrong, with the file of a key that is not
    where the site says. Until it is mended nothing else can be checked.
    """
    # Imported here: it takes long, and `optictl explain` needs none of it.
    from proxy.upstream.config_file import loads
    from proxy.upstream.routing import strategies

    machine = box.machine
    rendered = {each.path: each.content for each in machine.artifacts}
    path = machine.places.proxy_config
    # The service has the key from its env file; here it need only be one.
    loads(rendered[path].decode(), path, {"OPENAI_API_KEY": "any"}, strategies())
    return ok(f"{machine.loaded.path} and the {len(rendered)} files made from it")
