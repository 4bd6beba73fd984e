"""Run by LiteLLM's Python: it imports LiteLLM once, and each LiteLLM is a fork that serves.

Importing takes nearly all of a start. LiteLLM allows for forks behind its imports: gunicorn's
preload makes them. A line on stdin is a LiteLLM to start (``folder``, ``words``, ``variables``),
one on stdout its pid; the end of stdin is ours.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

# Read as LiteLLM is imported: its price list would be fetched from the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm.litellm_core_utils.default_encoding
import litellm.proxy.proxy_server  # noqa: F401
from litellm import run_server


def serve(folder: str, words: list[str], variables: dict[str, str]) -> None:
    """As ``litellm`` with these words would, in that folder."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(f"{folder}/litellm.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, opened in enumerate((nothing, log, log)):
        os.dup2(opened, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["litellm", *words]
    run_server()


def main() -> None:
    # Nobody waits for them here: who asked for one watches its pid.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            serve(**asked)
            return
        print(pid, flush=True)


if __name__ == "__main__":
    main()
