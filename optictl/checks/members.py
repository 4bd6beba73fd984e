"""The models that ensembles are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from optictl.box import Box, NoAnswer, model_names
from optictl.checking import Finding, check, fail, ok, skipped, warn
from optictl.errors import CannotRead
from optictl.gateway_config import Config
from optictl.gateway_site import reading, site_config
from proxy.ensembles import Ensemble
from proxy.ensembles_file import loads
from proxy.errors import ConfigError
from proxy.strict import did_you_mean

_MISSING = re.compile(
    r'^optillm_members_missing_total\{ensemble="([^"]+)",model="([^"]+)"\} (\S+)$', re.MULTILINE
)


@check(group="upstream", pace="fast", network=True)
def members(box: Box) -> Finding:
    """The upstream lists every member of the installed ensembles, and none was missed so far.

    It fails where an ensemble has too few proposers without those that are not listed
    (`min_successful`), and warns where the others go on. It warns too where the service counts
    members that it could not ask (`optillm_members_missing_total`), until it is started again. A
    model that a pattern of LiteLLM's serves need not be listed.
    """
    path = box.machine.places.ensembles
    file = box.machine.system.read(path)
    ensembles = (
        {} if file is None else loads(file.content.decode(errors="replace"), path, single=True)
    )
    if not ensembles:
        return skipped("the service has no ensembles")
    names = model_names(box.upstream_models)
    if names is None:
        return skipped("the upstream lists no models: see the check upstream")
    config = _config(box)
    said, fixes, dead = [], [], False
    for ensemble in ensembles.values():
        models = dict.fromkeys(each.model for each in ensemble.team.members)
        absent = [model for model in models if not _served(model, names, config)]
        if absent:
            left, needed = _left(ensemble, absent), ensemble.team.min_successful
            dead |= left < needed
            enough = f"{left} of its proposers are there, {needed} are needed"
            said.append(f"{ensemble.name}: the upstream has no {' and no '.join(absent)}; {enough}")
            fixes += [_fix(model, names) for model in absent]
    for name, model, count in _missed(box):
        if name in ensembles:
            said.append(f"{name}: since its start the service could not ask {model} {count} times")
            fixes.append(f"see what becomes of it: {box.optictl(f'ensemble {name}')}")
    if said:
        return (fail if dead else warn)("\n".join(said), "\n".join(dict.fromkeys(fixes)))
    return ok(f"{len(ensembles)} ensemble{'s' if len(ensembles) > 1 else ''}, all members listed")


def _config(box: Box) -> Config | None:
    """LiteLLM's own files; None where they are not named, not ours to read, or wrong."""
    try:
        return site_config(box.machine, reading(box.machine))
    except (CannotRead, ConfigError):
        return None  # what is wrong with them, the check routing says


def _served(model: str, names: Sequence[str], config: Config | None) -> bool:
    listed = model in names or any("*" in each and fnmatchcase(model, each) for each in names)
    found = () if listed or config is None else config.resolve(model)
    return listed or any("*" in entry.name for entry, _ in found)


def _left(ensemble: Ensemble, absent: Sequence[str]) -> int:
    return sum(each.model not in absent for each in ensemble.team.members_for("proposer"))


def _fix(model: str, names: Sequence[str]) -> str:
    return f"start {model}, or add it to LiteLLM's model_list{did_you_mean(model, names)}"


def _missed(box: Box) -> Iterator[tuple[str, str, int]]:
    """The ensembles that have missed a member, which one, and how often."""
    try:
        answer = box.get(f"{box.url}/metrics", box.proxy_key)
    except NoAnswer:
        return  # the check ready says so
    for name, model, count in _MISSING.findall(answer.text):
        if float(count) > 0:
            yield name, model, int(float(count))
