"""LiteLLM's configuration from a text, and entries for it."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from optictl.gateway_config import Config, read_config

ROUTER = Path("/srv/litellm/config/router.yaml")
LITELLM = "http://127.0.0.1:4000/v1"
US = "http://127.0.0.1:4020/v1"
BACKEND = "http://192.168.1.72:8100/v1"


def read(text: str, variables: dict[str, str] | None = None, **files: str) -> Config:
    """LiteLLM's configuration of a text; ``files`` stand beside it, as ``NAME.yaml``."""
    disk = {ROUTER: text} | {ROUTER.with_name(f"{name}.yaml"): s for name, s in files.items()}
    return read_config(
        ROUTER,
        lambda path: dedent(disk[path]).encode() if path in disk else None,
        variables or {},
    )


def entry(name: str, model: str, base: str = US) -> str:
    """An entry of three lines: its name, its model, and where it leads."""
    return (
        f'- model_name: "{name}"\n'
        f'  litellm_params: {{model: "openai/{model}",\n'
        f'    api_base: "{base}"}}\n'
    )
