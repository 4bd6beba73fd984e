"""OptiLLM 0.3.12's flags and variables that are not built yet: refused by name, not ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optictl.errors import UsageError
from proxy.errors import ConfigError

#: Flag (in its dashed spelling) to its environment variable, or None.
_NOT_BUILT: Mapping[str, str | None] = {
    "--launch-gui": "OPTILLM_LAUNCH_GUI",
    "--plugins-dir": "OPTILLM_PLUGINS_DIR",
}
_OFF = frozenset({"", "0", "false", "no", "off"})


def refuse_leftovers(arguments: Iterable[str]) -> None:
    """Raise `UsageError` for the first argument that no option took."""
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.replace("_", "-") in _NOT_BUILT:
            raise UsageError(
                f"{flag} is an OptiLLM flag that optictl does not have yet; "
                "leave it out to start without it"
            )
        kind = "option" if flag.startswith("-") else "argument"
        raise UsageError(f"no such {kind}: {flag}; see: optictl serve --help")


def refuse_environment(environ: Mapping[str, str]) -> None:
    """Raise `ConfigError` for a variable that asks for something not built."""
    for flag, variable in _NOT_BUILT.items():
        if variable is not None and environ.get(variable, "").strip().lower() not in _OFF:
            raise ConfigError(
                f"{variable} is set, and optictl does not have {flag} yet; unset it to start "
                "without it"
            )
