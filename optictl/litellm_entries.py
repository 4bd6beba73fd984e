"""What LiteLLM is told of our handles: entries of its ``model_list``, and the variables they read.

Each setting of an entry was measured on LiteLLM 1.106.2; older ones get what they know.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optictl.quoting import env_line
from proxy.ensembles import Ensemble, handle_key
from proxy.errors import ConfigError

#: A LiteLLM's version: 1.106.2 is ``(1, 106, 2)``.
Version = tuple[int, ...]

#: The oldest LiteLLM that was seen to send comments of its own; others pass the setting on to us.
_KNOWS_KEEPALIVE: Version = (1, 106, 2)
_KEEPALIVE = 15
#: Seconds between two reads of a stream; the proxy sends a comment every 15 s.
_STREAM_GAP = 120
#: Seconds that LiteLLM waits for an answer longer than the proxy takes for one.
_PATIENCE = 30
#: Requests of one handle at once; LiteLLM answers 429 to those beyond.
_PARALLEL = 8
#: Answered by the proxy without a model.
_HEALTH_MODEL = "openai/optictl-health"
_LIMITS = ("max_input_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What entries depend on besides their ensemble."""

    #: Seconds that the proxy takes for a request at most.
    request_timeout: float
    #: LiteLLM's, None where it does not tell.
    version: Version | None = None
    #: The parsed ``model_list`` of ``router.yaml``: it may tell how long a member's context is.
    listed: Sequence[Any] = field(default=(), repr=False)


def entries(ensembles: Iterable[Ensemble], around: Surroundings) -> list[str]:
    """The lines in YAML, ``- `` at column 0, of an entry for each ensemble.

    Raises `ConfigError` for two of them that would read the same variables.
    """
    given = list(ensembles)
    variables([each.name for each in given])
    return [line for each in given for line in _entry(each, around)]


def variable(handle: str) -> str:
    """What the names of a handle's variables begin with: ``OPTILLM_OPT_CODE_BALANCED_L``."""
    return f"OPTILLM_{handle_key(handle)}"


def variables(handles: Iterable[str]) -> dict[str, str]:
    """`variable` of each handle. Raises `ConfigError` where two of them have the same."""
    owners: dict[str, str] = {}
    for handle in handles:
        name = variable(handle)
        other = owners.setdefault(name, handle)
        if other != handle:
            raise ConfigError(
                f"'{other}' and '{handle}' would both be {name}_MODEL; rename one of them"
            )
    return {handle: name for name, handle in owners.items()}


def env_lines(selectors: Mapping[str, str], base_url: str, key: str) -> list[str]:
    """The assignments that entries read: selectors by handle, the proxy's /v1 URL and its key.

    They mean the same to systemd and to a shell. Raises `ConfigError` as `variables` does, and
    `OptictlError` for a value that cannot stand in a file of variables, which is not shown.
    """
    lines = []
    for handle, name in variables(selectors).items():
        lines += [
            _assigned(f"{name}_MODEL", f"openai/{selectors[handle]}"),
            _assigned(f"{name}_API_BASE", base_url),
            _assigned(f"{name}_API_KEY", key),
        ]
    return lines


def _assigned(name: str, value: str) -> str:
    env_line(name, value)  # for what it refuses
    # In double quotes a shell would put variables in.
    return f"{name}={shlex.quote(value)}"


def _entry(ensemble: Ensemble, around: Surroundings) -> list[str]:
    name = variable(ensemble.name)
    params: dict[str, Any] = {
        "model": f"os.environ/{name}_MODEL",
        "api_base": f"os.environ/{name}_API_BASE",
        "api_key": f"os.environ/{name}_API_KEY",
        # Else LiteLLM asks three times, and gives a handle a rest after an error of its client's.
        "num_retries": 0,
        "cooldown_time": 0,
        "timeout": _timeout(ensemble.limits.max_seconds, around.request_timeout),
        "stream_timeout": _STREAM_GAP,
    }
    if around.version is not None and around.version >= _KNOWS_KEEPALIVE:
        params["keepalive_seconds"] = _KEEPALIVE
    params["max_parallel_requests"] = _PARALLEL
    info: dict[str, Any] = {
        "id": f"optictl-{ensemble.name}",
        "mode": "chat",
        "health_check_model": _HEALTH_MODEL,
        "health_check_max_tokens": 1,
        # What the members cost is counted where they are called.
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
        **_least({member.model for member in ensemble.team.members}, around.listed),
    }
    return [
        f"- model_name: {_scalar(ensemble.name)}",
        "  litellm_params:",
        *(f"    {key}: {_scalar(value)}" for key, value in params.items()),
        "  model_info:",
        *(f"    {key}: {_scalar(value)}" for key, value in info.items()),
    ]


def _timeout(deadline: float | None, request_timeout: float) -> int:
    """Seconds, more than the proxy takes."""
    longest = request_timeout if deadline is None else min(deadline, request_timeout)
    return math.ceil(longest) + _PATIENCE


def _least(models: Collection[str], listed: Sequence[Any]) -> dict[str, int]:
    """The tightest limits that the entries of ``models`` tell, in tokens."""
    infos = [
        entry["model_info"]
        for entry in listed
        if isinstance(entry, Mapping)
        and entry.get("model_name") in models
        and isinstance(entry.get("model_info"), Mapping)
    ]
    found = {limit: [info.get(limit) for info in infos] for limit in _LIMITS}
    told = {
        limit: [each for each in values if type(each) is int] for limit, values in found.items()
    }
    return {limit: min(values) for limit, values in told.items() if values}


def _scalar(value: str | int) -> str:
    """As it stands in YAML, of which JSON is a part."""
    return json.dumps(value, ensure_ascii=False)
