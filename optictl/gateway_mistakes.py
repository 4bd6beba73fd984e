"""What LiteLLM lets pass in its configuration without a word, and what it then does. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from optictl.gateway_config import Config, Mapped
from proxy.strict import did_you_mean

Kind = Literal["loop", "missing", "unset", "duplicate", "unknown_key", "switch"]

#: Parameters that a backend may know, and LiteLLM does not.
_BACKENDS = frozenset({
    "bad_words", "best_of", "cache_prompt", "chat_template", "chat_template_kwargs", "do_sample",
    "dry_multiplier", "echo", "extra_body", "extra_query", "guided_choice", "guided_grammar",
    "guided_json", "guided_regex", "ignore_eos", "include_stop_str_in_output", "keep_alive",
    "length_penalty", "max_new_tokens", "min_p", "min_tokens", "mirostat", "num_ctx", "num_predict",
    "options", "priority", "repeat_penalty", "repetition_penalty", "skip_special_tokens",
    "stop_token_ids", "structured_outputs", "top_a", "top_k", "typical_p", "use_beam_search",
    "xtc_probability",
})  # fmt: skip
#: Our own members of a body reach us so.
_OURS = "optillm_"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong: what, where, and how to mend it."""

    kind: Kind
    #: ``FILE:LINE``, or the setting of ours.
    at: str
    said: str
    fix: str

    def __str__(self) -> str:
        return f"{self.at}: {self.said}"


def unset(config: Config, env_file: str | None) -> Iterator[Mistake]:
    """Variables that are named and not set; ``env_file`` is where they should be."""
    if config.section("general_settings").get("key_management_system"):
        return  # a vault may have them
    for name, at in config.references():
        if name not in config.variables:
            fix = f"set {name} in {env_file}" if env_file else "name LiteLLM's gateway.env_file"
            yield Mistake("unset", at, f"os.environ/{name} is not set", fix)


def duplicates(config: Config) -> Iterator[Mistake]:
    """Names that several entries have: LiteLLM shares the calls out among them."""
    places: dict[str, list[str]] = {}
    for entry in config.entries:
        places.setdefault(entry.name, []).append(entry.origin)
    for name, (first, *others) in places.items():
        if others:
            said = f"{name} stands {1 + len(others)} times, also at {', '.join(others)}"
            yield Mistake(
                "duplicate",
                first,
                f"{said}: LiteLLM picks one for each call",
                f"keep one of them, unless they are the same model: {', '.join([first, *others])}",
            )


def unknown_keys(config: Config) -> Iterator[Mistake]:
    """Keys that LiteLLM does not know and says nothing about."""
    for section in ("general_settings", "router_settings"):
        for document in config.documents:
            yield from _unknown(document.get(section), section, "LiteLLM does not know it")
    for entry, params in config.listed():
        said = "LiteLLM does not know it and sends it to the backend"
        yield from _unknown(params, "litellm_params", said)
        # Notes of one's own may stand there, so only what looks like a slip is one.
        yield from _unknown(entry.get("model_info"), "model_info", "LiteLLM does not know it", True)


def _unknown(found: object, section: str, said: str, slips: bool = False) -> Iterator[Mistake]:
    known = _known()[section]
    for key in found if isinstance(found, Mapped) else ():
        near = did_you_mean(key, known)
        ours = section == "litellm_params" and str(key).startswith(_OURS)
        if key not in known and not ours and (near or not slips):
            at = found.at(key) if isinstance(found, Mapped) else ""
            yield Mistake("unknown_key", at, f"{section}.{key}: {said}{near}", f"mend {at}")


@cache
def _known() -> Mapping[str, frozenset[str]]:
    """By section, what LiteLLM's own schema and its code name (litellm_keys.json says of which)."""
    said = json.loads(files("optictl").joinpath("litellm_keys.json").read_bytes())
    known = {name: frozenset(keys) for name, keys in said.items() if isinstance(keys, list)}
    return {**known, "litellm_params": known["litellm_params"] | _BACKENDS}
