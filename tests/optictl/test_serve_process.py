"""``optictl serve`` as a process: what its command line comes to."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import (
    InProcess,
    MakeProxy,
    Service,
    SimulatorThread,
    StartService,
    chat_body,
    eventually,
    free_port,
)

from optictl.simulator import Behaviour
from proxy.app import create_app
from proxy.errors import ConfigError
from proxy.settings import Secret, Settings

CHAT = "/v1/chat/completions"
UPSTREAM = ("--base-url", "http://127.0.0.1:9/v1")


#: OptiLLM 0.3.12's server flags with a value each: what this issue builds, ...
@pytest.fixture
def taken() -> Iterator[str]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


def test_the_line_of_a_present_unit_starts_as_it_stands(tmp_path: Path) -> None:
    """Only the path before it changes. No upstream is there yet."""
    script = Path(sys.executable).with_name("optillm")
    program = (
        [str(script)]
        if script.exists()
        else [sys.executable, "-c", "from optictl.cli import optillm; optillm()"]
    )
    line = (
        "--host 127.0.0.1 --port 4020 --base-url http://127.0.0.1:4000/v1 --approach proxy "
        "--model jerry-xl --optillm-api-key dummy"
    )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 4020))  # the line says so: nothing else may listen there
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPTILLM", "OPENAI"))}
    service = Service([*program, *line.split()], 4020, tmp_path / "log", clean)
    try:
        service.wait_healthy()
        assert httpx.get(f"{service.url}/health", timeout=30.0).json() == {"status": "ok"}
        ready = httpx.get(f"{service.url}/health/ready", timeout=30.0)
        assert ready.status_code == 503
        assert "Cannot connect" in ready.json()["reason"]
        assert httpx.post(service.url + CHAT, json=chat_body(), timeout=30.0).status_code == 401
        headers = {"Authorization": "Bearer dummy"}
        answer = httpx.post(service.url + CHAT, json=chat_body(), headers=headers, timeout=30.0)
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_unreachable"
        assert service.stop() == 0
    finally:
        service.process.kill()
        service.process.wait(5)


def test_flags_do_what_they_say(start_service: StartService, sim: SimulatorThread) -> None:
    service = start_service(
        *("--approach", "bon", "--model", "zed", "--best_of_n", "2", "--n", "3"),
        *("--optillm_api_key", "dummy", "--log", "warning"),
    )
    check_effects(service, sim)
    assert "path=/v1/chat/completions" not in service.log


def test_variables_do_what_they_say(sim: SimulatorThread, tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPTILLM", "OPENAI"))}
    port = free_port()
    wanted = {
        "OPTILLM_HOST": "127.0.0.1",
        "OPTILLM_PORT": str(port),
        "OPTILLM_BASE_URL": sim.url,
        "OPTILLM_APPROACH": "bon",
        "OPTILLM_MODEL": "zed",
        "OPTILLM_BEST_OF_N": "2",
        "OPTILLM_N": "3",
        "OPTILLM_RETURN_FULL_RESPONSE": "true",
        "OPTILLM_LOG": "info",
        "OPTILLM_SSL_VERIFY": "false",
    }
    command = [sys.executable, "-c", "from optictl.cli import optillm; optillm()"]
    service = Service(command, port, tmp_path / "log", {**clean, **wanted})
    try:
        service.wait_healthy()
        check_effects(service, sim)
        assert eventually(lambda: "path=/v1/chat/completions status=200" in service.log)
        assert service.stop() == 0
    finally:
        service.process.kill()
        service.process.wait(5)


def check_effects(service: Service, sim: SimulatorThread) -> None:
    """Three choices of best of two on the default model."""
    body = chat_body()
    del body["model"]
    headers = {"Authorization": "Bearer dummy"}
    answer = httpx.post(service.url + CHAT, json=body, headers=headers, timeout=30.0).json()
    assert len(answer["choices"]) == 3
    assert answer["optillm"]["approach"] == "bon"
    # Each choice: two samples, two ratings.
    assert sim.log.choices == 3 * (2 + 2)
    assert {call.model for call in sim.log.records} == {"zed"}


def test_a_default_approach_that_does_not_exist_ends_the_start(
    start_service: StartService,
) -> None:
    service = start_service("--approach", "memory", healthy=False)
    assert service.process.wait(60) == 2
    assert "optictl serve: --approach memory: Approach 'memory' is reserved" in service.log
    assert "Traceback" not in service.log


@pytest.mark.parametrize("approach", ["no-such", "longcepo", "bon&", "|", "moa-gpt"])
def test_only_a_pipeline_may_be_the_default(approach: str) -> None:
    with pytest.raises(ConfigError, match=f"--approach {re.escape(approach)}: "):
        create_app(Settings(base_url="http://unused", approach=approach))


@pytest.mark.parametrize("approach", ["auto", "proxy", "bon|moa", "re2&moa"])
def test_any_pipeline_may_be_the_default(make_proxy: MakeProxy, approach: str) -> None:
    proxy = make_proxy(approach=approach)
    named = "none" if approach in ("auto", "proxy") else approach
    assert proxy.ask().json["optillm"]["approach"] == named


def test_keys_in_files_are_in_no_log_and_in_no_process_list(
    start_service: StartService, tmp_path: Path
) -> None:
    keys = {"proxy": "proxy-s3cret", "upstream": "upstream-s3cret"}
    for name, key in keys.items():
        (tmp_path / name).write_text(f"{key}\n")
        (tmp_path / name).chmod(0o600)
    with SimulatorThread(Behaviour(), api_key=keys["upstream"]) as upstream:
        service = start_service(
            *("--base-url", upstream.url, "--log", "debug"),
            *("--optillm-api-key-file", str(tmp_path / "proxy")),
            *("--upstream-api-key-file", str(tmp_path / "upstream")),
        )

        def ask(key: str) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.post(service.url + CHAT, json=chat_body(), headers=headers, timeout=30.0)

        # The upstream accepts its own key only: that is what it got, and not the client's.
        assert ask(keys["proxy"]).status_code == 200
        assert ask("client-s3cret").status_code == 401
        assert ask(keys["upstream"]).status_code == 401
        pids = [service.process.pid, *service.workers()]
        assert len(pids) == 2
        for pid in pids:
            assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert service.stop() == 0
    assert service.log.count("path=/v1/chat/completions") == 3
    assert "s3cret" not in service.log


@pytest.mark.parametrize("key", ["client-key", "sk-looks-like-openai"])
def test_a_clients_key_never_goes_upstream(
    proxy: InProcess, make_proxy: MakeProxy, sim: SimulatorThread, key: str
) -> None:
    headers = {"Authorization": f"Bearer {key}", "X-Api-Key": key, "Api-Key": key, "Cookie": key}
    for service, sent in ((proxy, {}), (make_proxy(upstream_key=Secret("ours")), {"ours"})):
        sim.reset()
        assert service.post(json=chat_body(), headers=headers).status_code == 200
        assert service.post(json=chat_body(stream=True), headers=headers).status_code == 200
        assert eventually(lambda: sim.log.calls == 2)
        for call in sim.log.records:
            assert ("authorization" in call.headers) is bool(sent)
            assert not {"x-api-key", "api-key", "cookie"} & call.headers.keys()
            assert key not in str(call.headers)


def test_the_command_ends_in_one_line_where_the_port_is_taken(taken: str) -> None:
    """At once, where gunicorn by itself tries for seconds."""
    command = [sys.executable, "-c", "from optictl.cli import main; main()", "serve", *UPSTREAM]
    ended = subprocess.run(
        [*command, "--port", taken], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert re.fullmatch(rf"optictl: cannot listen on 127\.0\.0\.1:{taken}: .*\n", ended.stderr)
