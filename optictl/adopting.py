"""Takes over files that somebody wrote by hand, so that `optictl install` may replace them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from optictl.detect import Detected, Key
from optictl.key_places import read_key
from optictl.machine import Machine
from optictl.places import Places
from optictl.site import KeyPlace, Site
from optictl.site_file import move
from optictl.state import State, Written, digest
from optictl.system import System
from proxy.errors import ConfigError
from proxy.settings import Secret


@dataclass(frozen=True, slots=True)
class Adopted:
    """Files that were registered now, and those that were before."""

    files: tuple[Path, ...]
    already: tuple[Path, ...]


def adopt_files(machine: Machine, secrets: Sequence[Secret]) -> Adopted:
    """Register what stands at the paths of the site's files; none of them is changed.

    A file with one of ``secrets`` in it is never shown, also where what replaces it may be.

    Raises as `Machine.artifacts` does, and `Locked`.
    """
    system, records = machine.system, machine.records
    with system.lock(records.lock):
        state = State.load(system, records)
        files, already = dict(state.files), []
        for artifact in machine.artifacts:
            found = system.read(artifact.path)
            if found is None:
                continue
            sha256 = digest(found.content)
            before = files.get(artifact.path)
            if before is not None and not (before.adopted and before.sha256 != sha256):
                already.append(artifact.path)
                continue
            files[artifact.path] = replace(
                Written.of(artifact),
                sha256=sha256,
                mode=found.mode,
                sensitive=artifact.sensitive
                or any(each.reveal().encode() in found.content for each in secrets),
                adopted=True,
            )
        new = tuple(path for path in files if files[path] != state.files.get(path))
        if new:
            replace(state, files=files).save(system, records)
    return Adopted(new, tuple(already))


def keep_keys(
    system: System, site: Site, found: Detected, places: Places, root: Path
) -> list[Path]:
    """Move the secrets that a site which was there already wants moved, or says nothing of."""
    wanted = [
        key
        for key in found.keys.values()
        if _said(site, key.setting) in (None, key.place.model_dump(exclude_none=True))
        and not _same(site, key, root)
    ]
    return move(system, wanted, places)


def differences(site: Site, found: Detected, root: Path) -> Iterator[str]:
    """What was found and is not what the site says: ``KEY: site says X, the unit says Y``."""
    for name, setting in found.settings.items():
        said = _said(site, name)
        if said == setting.value or (name in found.keys and _same(site, found.keys[name], root)):
            continue
        yield f"{name}: site says {_text(said)}, {setting.origin} says {_text(setting.value)}"


def _said(site: Site, name: str) -> Any:
    value: Any = orjson.loads(site.model_dump_json(exclude_none=True))
    for step in name.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _same(site: Site, key: Key, root: Path) -> bool:
    """Whether the key that was found is the one that the site leads to, elsewhere."""
    said = _said(site, key.setting)
    if said is None:
        return False
    try:
        return read_key(KeyPlace.model_validate(said), root).reveal() == key.secret.reveal()
    except ConfigError:
        return False


def _text(value: Any) -> str:
    return "nothing" if value is None else orjson.dumps(value).decode()
