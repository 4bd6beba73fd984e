"""OptiLLM's flags that set options of approaches: what the server takes where a request is silent.

A table, so that ``optictl --help`` imports no approach; what it says is checked against the
approaches when a flag is given.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.errors import BadRequest, ConfigError


@dataclass(frozen=True, slots=True)
class Flag:
    """``--SLUG-OPTION``: a value for one option of one approach."""

    slug: str
    option: str
    type: type
    variable: str | None = None

    @property
    def name(self) -> str:
        return f"{self.slug}_{self.option}"


_CEPO: Mapping[type, tuple[str, ...]] = {
    int: (
        *("bestofn_n", "bestofn_max_tokens", "planning_n", "planning_m"),
        *("planning_max_tokens_step1", "planning_max_tokens_step2"),
        *("planning_max_tokens_direct_resp", "planning_max_tokens_step3"),
        *("planning_max_tokens_step4", "num_of_retries"),
    ),
    float: (
        *("bestofn_temperature", "planning_temperature_step1", "planning_temperature_step2"),
        *("planning_temperature_direct_resp", "planning_temperature_step3"),
        "planning_temperature_step4",
    ),
    str: ("bestofn_rating_type", "rating_model"),
    bool: ("use_plan_diversity", "use_reasoning_fallback", "print_output"),
}
FLAGS = (
    Flag("mcts", "simulations", int, "OPTILLM_SIMULATIONS"),
    Flag("mcts", "exploration", float, "OPTILLM_EXPLORATION"),
    Flag("mcts", "depth", int, "OPTILLM_DEPTH"),
    Flag("rstar", "max_depth", int, "OPTILLM_RSTAR_MAX_DEPTH"),
    Flag("rstar", "num_rollouts", int, "OPTILLM_RSTAR_NUM_ROLLOUTS"),
    Flag("rstar", "c", float, "OPTILLM_RSTAR_C"),
    *(Flag("cepo", option, kind) for kind, options in _CEPO.items() for option in options),
)
_FILE = "cepo_config_file"
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class ApproachFlags:
    """What was given on the command line or in the environment."""

    given: Mapping[Flag, Any]
    cepo_file: str | None = None

    def options(self) -> Mapping[str, Any]:
        """Options by ``slug.option``; a flag goes before the file, which is read at each call.

        Raises `ConfigError` for a file that cannot be used, and for what an approach does not take.
        """
        found: dict[str, Any] = {}
        if self.cepo_file is not None:
            source = f"{_dashed(_FILE)} {self.cepo_file}"
            for option, value in _read(Path(self.cepo_file).expanduser(), source).items():
                found |= _checked("cepo", option, value, source)
        for flag, value in self.given.items():
            found |= _checked(flag.slug, flag.option, value, _dashed(flag.name))
        return found


def with_approach_flags(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` taking each of `FLAGS` too; it gets them as its argument ``approach_flags``."""

    @functools.wraps(command)
    def taking(*args: Any, **kwargs: Any) -> None:
        file = kwargs.pop(_FILE)
        values = {flag: kwargs.pop(flag.name) for flag in FLAGS}
        given = {flag: value for flag, value in values.items() if value is not None}
        command(*args, approach_flags=ApproachFlags(given, file), **kwargs)

    signature = inspect.signature(command, eval_str=True)
    own = [each for name, each in signature.parameters.items() if name != "approach_flags"]
    added = [_parameter(flag.name, flag.type, flag.variable, _help(flag)) for flag in FLAGS]
    file = _parameter(_FILE, str, None, "CePO's options as a YAML file; flags go before it.")
    taking.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own, *added, file]
    )
    return taking


def _help(flag: Flag) -> str:
    return f"Option {flag.option} of {flag.slug} where a request does not set it."


def _parameter(name: str, kind: type, variable: str | None, text: str) -> inspect.Parameter:
    option = typer.Option(
        _dashed(name),
        f"--{name}",
        envvar=variable,
        help=text,
        show_default=False,
        # As OptiLLM spells it: --cepo_print_output True.
        parser=_truth if kind is bool else None,
        metavar="true|false" if kind is bool else None,
    )
    hint: Any = Annotated[Any if kind is bool else kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)


def _truth(text: str) -> bool:
    if text.strip().lower() not in _TRUTHS:
        raise typer.BadParameter(f"{text} is neither true nor false")
    return _TRUTHS[text.strip().lower()]


def _dashed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _checked(slug: str, option: str, value: Any, source: str) -> Mapping[str, Any]:
    # Imported here: most command lines have no such flag, and approaches take long to import.
    from proxy.registry import checked_options, discover

    try:
        checked = checked_options(discover().checked(slug), {option: value})
    except BadRequest as error:
        raise ConfigError(f"{source}: {error}") from None
    return {f"{slug}.{name}": each for name, each in checked.items()}


def _read(file: Path, source: str) -> Mapping[str, Any]:
    """The settings in OptiLLM's YAML file for CePO."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{source}: this is no YAML: {said}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigError(f"{source}: it must hold settings, as in bestofn_n: 3")
    # OptiLLM's own file says None, which YAML takes for a word.
    return {name: None if value == "None" else value for name, value in content.items()}
