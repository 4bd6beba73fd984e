"""``optictl router``: the classifier that picks an approach: fetch it, see it, try it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optictl.console import data, emit_json, say, show, warn
from optictl.options import AsJson, ConfigPath, Sets, UserScope, config_path, open_machine
from optictl.result import Result

if TYPE_CHECKING:
    from optictl.machine import Machine
    from optictl.router_place import Place
    from optictl.router_testing import Rung

_UNKNOWN = "not used, since nobody knows whether it would decide alike: optictl router calibrate"

app = typer.Typer(
    help="The router's classifier, which picks an approach: fetch it, see it, try it.",
    no_args_is_help=True,
)


@app.command()
def fetch(
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="A folder carried over by hand, which the service's user can read.",
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Go on with what optictl router calibrate does, where the extra is installed.",
        ),
    ] = True,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Put the classifier where the service looks for it: 1.6 GB, into its user's cache.

    Each file is held against the hub's digest, or the folder's tensors against
    the known layout; the service never sees half of it. A fetch that broke off
    goes on where it was. The service takes it in when it is reloaded.

    \b
    Examples:
      sudo optictl router fetch
      optictl router fetch --from /media/stick/optillm-modernbert-large
    """
    # Imported here: `optictl --help` needs no HTTP client.
    from optictl.errors import FetchFailed
    from optictl.router_calibration import calibrated
    from optictl.router_fetch import from_folder, from_hub
    from optictl.router_place import acting_as, told

    machine, place = _place(config, sets, user=user)
    if place.folder is not None:
        raise FetchFailed(
            f"the service reads {place.folder} (--router-model), which is yours to fill"
        )
    with acting_as(place.user):
        if source is None:
            from_hub(place.repository, say)
        else:
            from_folder(source.expanduser().absolute(), place.repository, say)
        found = told(place)
        if calibrate and found["extra"] is None and found["int8"] is None:
            calibrated(place, say)
            found = told(place)
    if as_json:
        emit_json(Result("router fetch", found))
        return
    data(found["path"])
    say(found["extra"] or "the service takes it in when it is reloaded: optictl reload")
    if machine is not None and machine.site.service.profile == "strict":
        warn("torch does not work under service.profile strict; see: optictl check router")


@app.command()
def calibrate(
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Find out whether the classifier may compute in int8 here, in half the memory.

    200 prompts are decided in int8 and in the full precision. Where at least 99 %
    of the decisions are the same and int8 takes no more than 1.25 times as long,
    the service uses it from its next reload on. Takes about half a minute on two
    cores and 1.4 GB of memory. It holds for this checkpoint, CPU and version of
    torch: with others the service goes back to the full precision until this is
    run again.

    \b
    Examples:
      sudo optictl router calibrate
      optictl router calibrate --json | jq -r .data.int8.alike
    """
    # Imported here: `optictl --help` needs none of it.
    from optictl.router_calibration import calibrated
    from optictl.router_place import acting_as, told

    _, place = _place(config, sets, user=user)
    # A folder that flags name is whoever's it is.
    with acting_as(place.user if place.folder is None else None):
        calibrated(place, say)
        found = told(place)
    if as_json:
        emit_json(Result("router calibrate", found))


@app.command()
def status(
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Say whether the service has its classifier, and what it would load.

    \b
    Examples:
      optictl router status
      optictl router status --json | jq -r .data.state
    """
    # Imported here: `optictl --help` needs no HTTP client.
    from optictl.router_place import told

    machine, place = _place(config, sets, user=user)
    found = {**_service(machine), **told(place)}
    if as_json:
        emit_json(Result("router status", found))
        return
    _show_facts(
        {
            "service": found["state"] + (f": {found['state_why']}" if found["state_why"] else ""),
            "checkpoint": found["path"],
            "complete": f"yes, {found['bytes']:,} bytes" if found["complete"] else found["why"],
            "extra": found["extra"] or "installed",
            "int8": found["int8"]["said"] if found["int8"] else _UNKNOWN,
        }
    )


@app.command("test")
def try_prompt(
    prompt: Annotated[str, typer.Argument(help="What a client would ask.")],
    effort: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="From 0, cheap, to 1, thorough.")
    ] = 0.7,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Show which approach each rung of the router would pick for a prompt, and how fast.

    The classifier of the running service is asked where that can be reached (as
    root, or as its user), else one is loaded for it, which takes a while: a
    line on stderr and the member "asked" say which. The time shown is that of
    the decision alone.

    \b
    Examples:
      optictl router test "Prove that there are infinitely many primes."
      optictl router test --effort 0.2 "Hi!" --json
    """
    # Imported here: `optictl --help` needs none of it.
    from optictl.router_testing import rungs

    _, place = _place(config, sets, user=user)
    found = rungs(prompt, place, effort, say)
    if as_json:
        emit_json(Result("router test", [each.as_json() for each in found]))
    else:
        _show_rungs(found)


def _place(
    config: Path | None, sets: list[str] | None, *, user: bool
) -> tuple[Machine | None, Place]:
    """The site's, or of a service that is run by hand where there is none."""
    from optictl.router_place import of_site, of_user

    if config is None and not config_path(None, user=user).exists():
        return None, of_user()
    machine = open_machine(config, sets, user=user)
    return machine, of_site(machine.site, machine.home)


def _service(machine: Machine | None) -> dict[str, Any]:
    """``state`` and ``state_why`` of the classifier in the service that runs."""
    import httpx

    from optictl.box import said_json
    from optictl.render import reached_at
    from proxy.settings import DEFAULT_HOST, DEFAULT_PORT

    url = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    url = reached_at(machine.site.proxy) if machine is not None else url
    try:
        said = said_json(httpx.get(f"{url}/health/ready", timeout=10.0, trust_env=False))
    except httpx.HTTPError:
        return {"state": "not running", "state_why": f"nothing answers at {url}"}
    return {"state": said.get("router", "unknown"), "state_why": said.get("router_why")}


def _show_facts(facts: Mapping[str, str]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts.items():
        table.add_row(name, value)
    show(table)


def _show_rungs(found: list[Rung]) -> None:
    from rich.table import Table

    table = Table("RUNG", "APPROACH", "TIME", "SHARES", box=None, pad_edge=False)
    for each in found:
        ranked = sorted(each.shares.items(), key=lambda pair: -pair[1])[:3]
        shares = ", ".join(f"{name} {share:.2f}" for name, share in ranked)
        spent = f"{1000 * each.seconds:.2f} ms" if each.seconds else "–"
        table.add_row(each.name, each.approach or "–", spent, shares or each.why)
    show(table)
