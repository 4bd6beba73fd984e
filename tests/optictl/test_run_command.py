"""``optictl run``: the site's service without systemd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
from conftest import SimulatorThread, chat_body, eventually, free_port

from optictl.simulator import Behaviour


def test_it_serves_as_the_unit_would_and_leaves_no_file(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "keys.env").write_text("CLIENTS=sk-clients\nUPSTREAM=sk-up\n")
    (tmp_path / "tmp").mkdir()
    with SimulatorThread(Behaviour(latency=0), api_key="sk-up") as simulator:
        site = tmp_path / "optictl.yaml"
        keys = tmp_path / "keys.env"
        site.write_text(
            f"proxy:\n  base_model: sim\n  port: {port}\n"
            f"  key: {{env_file: {keys}, name: CLIENTS}}\n"
            f"upstream:\n  base_url: {simulator.url}\n"
            f"  key: {{env_file: {keys}, name: UPSTREAM}}\n"
        )
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPTI", "OPENAI"))}
        code = "from optictl.cli import main; main()"
        running = subprocess.Popen(
            [sys.executable, "-c", code, "run", "--config", str(site)],
            stderr=subprocess.PIPE,
            text=True,
            env={**clean, "TMPDIR": str(tmp_path / "tmp")},
        )
        try:
            url = f"http://127.0.0.1:{port}"

            def up() -> bool:
                try:
                    return httpx.get(f"{url}/health", timeout=30.0).status_code == 200
                except httpx.TransportError:
                    return False

            assert eventually(up, 30)
            chat = f"{url}/v1/chat/completions"
            assert httpx.post(chat, json=chat_body(), timeout=30.0).status_code == 401
            asked = httpx.post(
                chat,
                json=chat_body(),
                headers={"Authorization": "Bearer sk-clients"},
                timeout=30,
            )
            assert asked.status_code == 200, asked.text
        finally:
            running.send_signal(signal.SIGTERM)
            _, said = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "sk-clients" not in said
    assert "sk-up" not in said
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_keeps_it_from_starting_is_said_as_serve_does(tmp_path: Path) -> None:
    site = tmp_path / "optictl.yaml"
    site.write_text("proxy: {base_model: sim, flags: [--log, loud]}\n")
    code = "from optictl.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "--config", str(site), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    [error] = json.loads(ended.stdout)["errors"]
    assert "--log" in error["message"]
