"""What the proxy calls."""

from __future__ import annotations

from optictl.box import Box, NoAnswer, model_names, shown
from optictl.checking import Finding, check, fail, ok


@check(group="upstream", pace="fast", network=True)
def upstream(box: Box) -> Finding:
    """The upstream answers, and takes our key.

    A LiteLLM without a database answers a wrong key with 400, not with 401.
    """
    site = box.machine.site
    where = shown(site.upstream.base_url)
    try:
        answer = box.upstream_models
    except NoAnswer as error:
        restart = " ".join(site.gateway.restart) if site.gateway else "start it"
        return fail(str(error), f"{restart}, or mend upstream.base_url")
    if answer.status_code in (400, 401, 403):
        said = "refuses our key" if site.upstream.key else "wants a key"
        # Its own words are not shown: LiteLLM quotes the key in them.
        fix = f"mend upstream.key in {box.machine.loaded.path}"
        return fail(f"{where} {said} (HTTP {answer.status_code})", fix)
    names = model_names(answer)
    if answer.status_code != 200 or names is None:
        said = f"{where}/models answers HTTP {answer.status_code} and no list of models"
        return fail(said, "mend upstream.base_url, which commonly ends in /v1")
    return ok(f"{where} serves {len(names)} model{'s' if len(names) != 1 else ''}")
