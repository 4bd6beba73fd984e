"""``optictl adopt``: take over a hand-written service."""

from __future__ import annotations

import os
from pathlib import Path

from optictl.commands.init import site_path
from optictl.console import data, emit_json, say, warn
from optictl.options import AsJson, ConfigPath, Root, Sets, UserScope, Yes
from optictl.result import Result


def adopt(
    config: ConfigPath = None,
    user: UserScope = False,
    root: Root = Path("/"),
    sets: Sets = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take over a hand-written service, so that install may replace its files.

    Writes optictl.yaml where there is none, moves keys as init does, and
    registers the files that stand at paths of ours. None of those is changed:
    installing keeps a checkpoint of them, so optictl rollback brings them back.

    \b
    Examples:
      sudo optictl adopt
      sudo optictl adopt --yes && optictl plan
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl.adopting import adopt_files, differences, keep_keys
    from optictl.installing import confirm
    from optictl.machine import Machine
    from optictl.render import FLOOR
    from optictl.site_file import look, write_site
    from optictl.site_loading import load
    from optictl.system import RealSystem

    at = root.absolute()
    system = RealSystem(at)
    path = site_path(config, user=user, root=at)
    given = [*(["service.scope=user"] if user else []), *(sets or ())]
    kept = load(path, os.environ, given).site if path.exists() else None
    names = list(sets or ())
    if kept is not None:
        names.append(f"service.name={kept.service.name}")
        user = kept.service.scope == "user"
    found, places = look(system, user=user, sets=names)
    confirm(f"Take over the files of {places.name} for optictl?", yes=yes, as_json=as_json)
    differing: list[str] = []
    if kept is None:
        moved = write_site(system, path, found, places, force=False)
    else:
        differing = list(differences(kept, found, at))
        moved = keep_keys(system, kept, found, places, at)
    # Which files there are does not depend on systemd's version.
    machine = Machine(load(path, os.environ, given), system, None, systemd=FLOOR, root=at)
    adopted = adopt_files(machine, found.secrets)
    if as_json:
        answer = {
            "path": str(path),
            "site": "written" if kept is None else "kept",
            "differs": differing,
            "adopted": [str(each) for each in adopted.files],
            "already": [str(each) for each in adopted.already],
            "keys": [str(each) for each in moved],
            "drop_ins": [str(each) for each in found.drop_ins],
            "notes": found.notes,
        }
        emit_json(Result("adopt", answer))
        return
    for note in [*found.notes, *differing]:
        warn(note)
    for file in moved:
        say(f"a key now lives in {file}")
    for drop_in in found.drop_ins:
        say(f"kept, and in force for the new unit too: {drop_in}")
    say(f"{'wrote' if kept is None else 'kept'} {path}")
    for each in adopted.already:
        data(f"already {each}")
    for each in adopted.files:
        data(f"adopted {each}")
    if not adopted.files and not adopted.already:
        say("there was no file to take over")
    say("next: optictl plan, then optictl install (optictl rollback brings the old files back)")
