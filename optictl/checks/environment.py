"""A variable that means something else than it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from optictl.box import Box, CannotTell
from optictl.checking import Finding, check, fail, ok, warn

NAME = "OPTILLM_API_KEY"
_SET = re.compile(rf"(?:^|[\s\"'=]){NAME}(?:=|\s|$)")
_FILE = re.compile(r"\s*EnvironmentFile\s*=\s*-?(/.*?)\s*")


@check(group="settings", pace="fast")
def environment(box: Box) -> Finding:
    """OPTILLM_API_KEY is set nowhere.

    OptiLLM takes it for "run the model in this process", and a service that has both it and an
    upstream does not start. The key that clients send is `proxy.key` in the site.
    """
    found = [*_in_files(box), *_in_process(box)]
    if found:
        return fail(f"{NAME} is set in {', '.join(found)}", f"take {NAME} out of there")
    if NAME in box.environ:
        return warn(f"{NAME} is set in this shell", f"unset {NAME}")
    return ok(f"{NAME} is set nowhere")


def _in_files(box: Box) -> Iterator[str]:
    """``FILE:LINE`` of the unit, its drop-ins, and the files of variables that they name."""
    places = box.machine.places
    waiting = [places.service, places.env, *_drop_ins(box)]
    asked: set[Path] = set()
    while waiting:
        path = waiting.pop(0)
        if path in asked:
            continue
        asked.add(path)
        file = box.machine.system.read(path)
        text = "" if file is None else file.content.decode(errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if line.lstrip().startswith(("#", ";")):
                continue
            if _SET.search(line):
                yield f"{path}:{number}"
            named = _FILE.fullmatch(line)
            if named:
                waiting.append(Path(named[1]))


def _drop_ins(box: Box) -> tuple[Path, ...]:
    try:
        return box.service.drop_ins
    except CannotTell:
        return ()


def _in_process(box: Box) -> Iterator[str]:
    try:
        pid = box.service.main_pid
        variables = (box.proc / str(pid) / "environ").read_bytes().split(b"\0") if pid else []
    except (CannotTell, OSError):
        return  # another user's: the files have told
    if any(each.startswith(f"{NAME}=".encode()) for each in variables):
        yield f"process {pid}"
