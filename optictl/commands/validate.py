"""``optictl validate``: would a start find anything that it cannot use?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from optictl.console import data, emit_json
from optictl.options import AsJson, ConfigPath, Sets, UserScope, open_machine
from optictl.result import Result


def validate(
    proxy_config: Annotated[
        Path | None,
        typer.Option("--proxy-config", metavar="FILE", help="Only this pool of providers."),
    ] = None,
    optillm_api_key_file: Annotated[
        str | None,
        typer.Option("--optillm-api-key-file", metavar="FILE", help="Only the clients' key."),
    ] = None,
    ensembles: Annotated[
        Path | None, typer.Option("--ensembles", metavar="FILE", help="Only these ensembles.")
    ] = None,
    single_model_ensembles: Annotated[
        bool, typer.Option("--single-model-ensembles", help="Permit those of one model there.")
    ] = False,
    config: ConfigPath = None,
    user: UserScope = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Load everything that a start would load, and change nothing.

    Without flags: the site, its keys, the files rendered from it, and the
    units as systemd judges them. The unit calls it with flags before each
    reload, so that settings which cannot be used are refused and the old ones
    serve on.

    Every mistake is a line: FILE:LINE:COL, what is wrong, what to do. Exits
    with 2 where there is any.

    \b
    Examples:
      optictl validate
      optictl validate --set proxy.approach=moa
      optictl validate --proxy-config ~/.optillm/proxy_config.yaml
    """
    # Imported here: `optictl --help` needs no pydantic.
    from optictl.validating import validate_files, validate_site

    if all(given is None for given in (proxy_config, optillm_api_key_file, ensembles)):
        found = validate_site(open_machine(config, sets, user=user))
    else:
        found = validate_files(
            proxy_config,
            optillm_api_key_file,
            os.environ,
            ensembles=ensembles,
            single=single_model_ensembles,
        )
    if as_json:
        emit_json(Result("validate", {"valid": list(found.of)}))
    else:
        data(found.line())
