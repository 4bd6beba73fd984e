"""``optictl config``: what the site says, and what it may say."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from optictl.console import data, emit_json, enveloped, show
from optictl.options import DEFAULT_CONFIG, AsJson, ConfigPath, Sets
from optictl.result import Result

app = typer.Typer(help="What the site says, and what it may say.", no_args_is_help=True)


@app.command()
def schema() -> None:
    """Print the JSON schema of optictl.yaml.

    \b
    Example, for an editor with a YAML language server:
      optictl config schema > optictl.schema.json
    """
    # Imported here, as below: `optictl --help` needs no pydantic.
    import orjson

    from optictl.site import Site

    data(orjson.dumps(Site.model_json_schema(), option=orjson.OPT_INDENT_2).decode())


@app.command(name="show")
def show_(
    config: ConfigPath = DEFAULT_CONFIG,
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

    from optictl.site import load, settings_of

    with enveloped("config show", as_json=as_json):
        loaded = load(config, os.environ, sets or ())
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
