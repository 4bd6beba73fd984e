"""What a check is, how checks are found in ``checks/``, and how they are run.

A check is one file with one function of the file's name, marked by `check`. Its docstring's first
line says what holds when it is ok; the rest is what ``optictl explain NAME`` adds.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Literal

from optictl import checks
from optictl.box import Box, CannotTell
from optictl.errors import OptictlError, UsageError
from optictl.exit_status import Exit
from proxy.errors import ConfigError
from proxy.strict import did_you_mean

Status = Literal["ok", "warn", "fail", "skipped"]
#: ``fast`` ones are done in well under two seconds and call no model; ``deep`` ones call models.
Pace = Literal["fast", "normal", "deep"]
Group = Literal["settings", "service", "proxy", "upstream", "gateway", "neighbours"]

#: Seconds after which a check that still runs is named.
SLOW = 10.0

_MARK = "__optictl_check__"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has seen, and the one command, or file and line, that mends it."""

    status: Status
    saw: str
    fix: str = ""
    #: Mends it, for ``--fix``, and says what it did.
    repair: Callable[[], str] | None = None


def ok(saw: str) -> Finding:
    return Finding("ok", saw)


def warn(saw: str, fix: str, repair: Callable[[], str] | None = None) -> Finding:
    return Finding("warn", saw, fix, repair)


def fail(saw: str, fix: str, repair: Callable[[], str] | None = None) -> Finding:
    return Finding("fail", saw, fix, repair)


def skipped(why: str) -> Finding:
    return Finding("skipped", why)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at."""

    name: str
    group: Group
    about: str
    explanation: str
    look: Callable[[Box], Finding]
    pace: Pace = "normal"
    #: It opens connections.
    network: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """A check that was run, or left out, and what it found."""

    check: Check
    finding: Finding
    seconds: float = 0.0

    def reworded(self, word: Callable[[str], str]) -> Checked:
        """The same in other words."""
        told = replace(self.finding, saw=word(self.finding.saw), fix=word(self.finding.fix))
        return replace(self, finding=told)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.check.name,
            "group": self.check.group,
            "status": self.finding.status,
            "saw": self.finding.saw,
            "fix": self.finding.fix,
            "seconds": round(self.seconds, 3),
        }


def check(
    *, group: Group, pace: Pace = "normal", network: bool = False
) -> Callable[[Callable[[Box], Finding]], Callable[[Box], Finding]]:
    """Mark a function as a check."""

    def mark(look: Callable[[Box], Finding]) -> Callable[[Box], Finding]:
        about, _, explanation = inspect.cleandoc(look.__doc__ or "").partition("\n")
        made = Check(look.__name__, group, about, explanation.strip(), look, pace, network)
        setattr(look, _MARK, made)
        return look

    return mark


def discover() -> list[Check]:
    """Every check, by group and name."""
    found = []
    for info in pkgutil.iter_modules(checks.__path__):
        module = importlib.import_module(f"{checks.__name__}.{info.name}")
        found.append(getattr(getattr(module, info.name), _MARK))
    groups = list(Group.__args__)  # type: ignore[attr-defined]
    return sorted(found, key=lambda each: (groups.index(each.group), each.name))


def chosen(
    known: Sequence[Check], names: Sequence[str], *, fast: bool = False, deep: bool = False
) -> list[Check]:
    """Those of ``names``; without any, the ``fast`` ones, or all but the ``deep`` ones.

    Raises `UsageError` for an unknown name.
    """
    by_name = {each.name: each for each in known}
    for name in names:
        if name not in by_name:
            near = did_you_mean(name, by_name)
            raise UsageError(f"there is no check {name}{near}; they are: {', '.join(by_name)}")
    if names:
        return [each for each in known if each.name in names]
    paces = {"fast"} if fast else {"fast", "normal", *(["deep"] if deep else [])}
    return [each for each in known if each.pace in paces]


def look(
    wanted: Iterable[Check],
    box: Box,
    *,
    network: bool = True,
    fix: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Checked]:
    """Run checks, repair what they say can be repaired, and look at what was not well again.

    ``tell`` hears what is slow, and what was done.
    """

    def slow(names: list[str]) -> None:
        tell(f"still waiting for: {', '.join(names)}")

    wanted = list(wanted)
    run = [each for each in wanted if network or not each.network]
    found = {each.check.name: each for each in run_checks(run, box, slow)}
    mended = mend(found.values()) if fix else []
    for name, done in mended:
        tell(f"{name}: {done}")
    if mended:
        unwell = [each.check for each in found.values() if each.finding.status != "ok"]
        found |= {each.check.name: each for each in run_checks(unwell, box.anew(), slow)}
    offline = skipped("opens connections, and --no-network is given")
    return [found.get(each.name) or Checked(each, offline) for each in wanted]


def run_checks(
    wanted: Iterable[Check], box: Box, on_slow: Callable[[list[str]], None] = lambda names: None
) -> list[Checked]:
    """Run checks beside one another, in the order given. ``on_slow`` hears who is still at it.

    A check that fails by an error has found that; one that crashes has found a bug of ours. Neither
    keeps the others from running.
    """
    wanted = list(wanted)
    with ThreadPoolExecutor(max_workers=max(1, len(wanted))) as pool:
        running = {pool.submit(_timed, each, box): each for each in wanted}
        _, late = wait(running, timeout=SLOW)
        if late:
            on_slow([each.name for future, each in running.items() if future in late])
        return [_checked(each, future) for future, each in running.items()]


def without_site(wanted: Sequence[Check], error: ConfigError) -> list[Checked]:
    """What is found where the site itself cannot be used: that, and nothing else."""
    [settings] = [each for each in discover() if each.name == "settings"]
    others = [each for each in wanted if each.name != "settings"]
    found = fail(str(error), "mend the file; what may stand in it: optictl config schema")
    unseen = skipped("the settings cannot be used")
    return [Checked(settings, found), *(Checked(each, unseen) for each in others)]


def mend(checked: Iterable[Checked]) -> list[tuple[str, str]]:
    """Repair what can be, one after the other: the checks' names, and what was done."""
    return [
        (each.check.name, _repaired(each.finding.repair))
        for each in checked
        if each.finding.repair is not None
    ]


def verdict(checked: Sequence[Checked]) -> str:
    """``17 ok, 1 warning, 1 failed``; what there is none of is left out, but for what is ok."""
    count = Counter(each.finding.status for each in checked)
    said = [f"{count['ok']} ok"]
    if count["warn"]:
        said.append(f"{count['warn']} warning{'s' if count['warn'] > 1 else ''}")
    if count["fail"]:
        said.append(f"{count['fail']} failed")
    if count["skipped"]:
        said.append(f"{count['skipped']} skipped")
    return ", ".join(said)


def exit_status(checked: Iterable[Checked], *, strict: bool) -> Exit:
    found = {each.finding.status for each in checked}
    if "fail" in found:
        return Exit.FAILED
    return Exit.NOT_RUNNING if strict and "warn" in found else Exit.OK


def _repaired(repair: Callable[[], str]) -> str:
    try:
        return repair()
    except (OptictlError, ConfigError) as error:
        return f"could not: {error}"


def _timed(each: Check, box: Box) -> tuple[Finding, float]:
    began = time.monotonic()
    try:
        finding = each.look(box)
    except CannotTell as error:
        finding = skipped(str(error))
    except (OptictlError, ConfigError) as error:
        # What the operator's own account may not read is no fault of the machine.
        denied = isinstance(error.__context__, PermissionError)
        finding = (
            skipped(str(error)) if denied else fail(str(error), f"optictl explain {each.name}")
        )
    return finding, time.monotonic() - began


def _checked(each: Check, future: Future[tuple[Finding, float]]) -> Checked:
    crash = future.exception()
    if crash is not None:
        saw = f"the check itself crashed: {type(crash).__name__}: {crash}"
        return Checked(each, fail(saw, "report this line: it is a bug of optictl"))
    return Checked(each, *future.result())
