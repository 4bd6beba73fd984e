"""``optictl config``: what the site says, and what it may say."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from optictl.console import data, emit_json, show
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result

app = typer.Typer(help="What the site says, and what it may say.", no_args_is_help=True)


@app.command()
def schema(as_json: AsJson = False) -> None:
    """Print the JSON schema of optictl.yaml.

    \b
    Examples:
      optictl config schema > optictl.schema.json   # for an editor with YAML support
    """
    # Imported here, as below: `optictl --help` needs no pydantic.
    import orjson

    from optictl.site import json_schema

    found = json_schema()
    if as_json:
        emit_json(Result("config schema", found))
    else:
        data(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())


@app.command(name="show")
def show_(
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value comes from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print every value that is in force: flag > environment > file > default.

    \b
    Examples:
      optictl config show --origin
      OPTICTL_PROXY_PORT=4021 optictl config show --origin --json
    """
    from rich.table import Table

    from optictl.site import settings_of

    loaded = open_machine(config, sets, user=user).loaded
    values: list[dict[str, Any]] = [
        {"name": name, "value": value, "origin": loaded.origins.get(name, "default")}
        for name, value in settings_of(loaded.site)
    ]
    if as_json:
        emit_json(Result("config show", values))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for each in values:
        row = [each["name"], _shown(each["value"])]
        table.add_row(*row, *([each["origin"]] if origin else []))
    show(table)


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)
