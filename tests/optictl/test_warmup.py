"""``optictl warmup``: patient where waiting helps, quick where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port
from typer.testing import CliRunner

from optictl.cli import build
from optictl.errors import CannotRead, UsageError, WarmupFailed
from optictl.warming import Warmed, process_id, read_body, warm
from proxy.settings import Secret
from proxy.upstream.refusals import refusal as key_refused

BODY = b'{"model": "qwen3", "messages": []}'
KEY = "sk-never-shown"
#: As the proxy words it, of a provider.
REFUSED = key_refused(401, {}, b"{}", str).message
ANSWER = (200, {}, {"model": "qwen3", "choices": [{}]})

#: Status, headers, body; or the connection is cut.
Answer = tuple[int, dict[str, str], Any] | None


def refusal(status: int, code: str, message: str = "no") -> Answer:
    return status, {"x-optillm-error": code}, {"error": {"message": message, "code": code}}


class Proxy:
    """Answers as told, the last answer again and again; keeps what it was asked."""

    def __init__(self, port: int, *answers: Answer, held: threading.Event | None = None) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self._answers = list(answers)
        self._held = held
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                proxy.asked.append((self.path, dict(self.headers), body))
                if proxy._held is not None:
                    proxy._held.wait(30)
                answers = proxy._answers
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, said = answer
                content = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def warmed(url: str, *, seconds: float = 20.0, pid: int | None = None, **more: Any) -> Warmed:
    tell: Callable[[str], None] = more.get("tell", lambda line: None)
    return warm(url, BODY, Secret(KEY), timeout=seconds, pid=pid, tell=tell)


@contextmanager
def process(script: str = "import time; time.sleep(60)") -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", script]) as started:
        try:
            yield started
        finally:
            started.kill()


class TestAnAnswer:
    def test_the_request_is_sent_as_it_is_with_the_key(self) -> None:
        with Proxy(0, ANSWER) as proxy:
            done = warmed(f"{proxy.url}/v1/")
        assert (done.model, done.tries) == ("qwen3", 1)
        [(path, headers, body)] = proxy.asked
        assert (path, body) == ("/v1/chat/completions", BODY)
        assert headers["Authorization"] == f"Bearer {KEY}"

    @pytest.mark.parametrize(
        "first",
        [
            refusal(503, "upstream_overloaded"),
            refusal(502, "upstream_unreachable"),
            refusal(429, "upstream_rate_limited"),
            refusal(504, "upstream_timeout"),
            refusal(503, "no_healthy_providers", f"None (a: {REFUSED}; b: It is away.)."),
            (503, {}, b"loading"),
            None,
        ],
    )
    def test_what_another_moment_may_change_is_waited_for(self, first: Answer) -> None:
        lines: list[str] = []
        with Proxy(0, first, ANSWER) as proxy:
            assert warmed(proxy.url, tell=lines.append).tries == 2
        [line] = lines
        assert line.startswith("waiting for ")

    def test_a_service_that_does_not_listen_yet_is_waited_for(self) -> None:
        port = free_port()
        waits = threading.Event()

        def tell(line: str) -> None:
            if "nothing listens" in line:
                waits.set()

        done: list[Warmed] = []
        warming = threading.Thread(
            target=lambda: done.append(warmed(f"http://127.0.0.1:{port}", tell=tell))
        )
        warming.start()
        assert waits.wait(20)
        with Proxy(port, ANSWER):
            warming.join(20)
        assert [each.model for each in done] == ["qwen3"]

    def test_the_same_reason_is_said_once(self) -> None:
        lines: list[str] = []
        again = [refusal(503, "overloaded")] * 4
        with Proxy(0, *again, ANSWER) as proxy:
            warmed(proxy.url, tell=lines.append)
        assert len(lines) == 1


class TestNoAnswer:
    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (refusal(400, "model_not_found"), "proxy.base_model"),
            (refusal(401, "invalid_api_key"), "proxy.key"),
            (refusal(403, "upstream_rejected"), "optictl explain upstream_rejected"),
            (refusal(404, "not_found"), "not_found"),
            (refusal(413, "body_too_large"), "body_too_large"),
            (refusal(422, "upstream_rejected"), "HTTP 422"),
            (refusal(502, "upstream_auth"), "upstream.key"),
            (refusal(503, "no_healthy_providers", f"None (litellm: {REFUSED})."), "upstream.key"),
            ((404, {}, b"<html>"), "no optillm-proxy"),
            ((200, {}, b"<html>"), "no optillm-proxy"),
        ],
    )
    def test_what_waiting_does_not_change_fails_at_once(self, answer: Answer, said: str) -> None:
        with Proxy(0, answer) as proxy, pytest.raises(WarmupFailed) as failed:
            warmed(proxy.url)
        assert len(proxy.asked) == 1
        assert said in str(failed.value)

    def test_the_key_is_shown_by_no_message(self) -> None:
        answer = refusal(401, "invalid_api_key", f"no\n{KEY}?")
        with Proxy(0, answer) as proxy, pytest.raises(WarmupFailed) as failed:
            warmed(proxy.url)
        assert KEY not in str(failed.value)
        assert "\n" not in str(failed.value)

    def test_at_the_timeout_the_last_reason_is_said(self) -> None:
        said = r"within 0\.5 s.* 503 overloaded: full"
        answer = refusal(503, "overloaded", "full")
        with Proxy(0, answer) as proxy, pytest.raises(WarmupFailed, match=said):
            warmed(proxy.url, seconds=0.5)

    def test_a_request_under_way_ends_with_the_timeout(self) -> None:
        held = threading.Event()
        with Proxy(0, ANSWER, held=held) as proxy:
            with pytest.raises(WarmupFailed, match="within"):
                warmed(proxy.url, seconds=0.5)
            held.set()

    def test_an_address_that_is_none(self) -> None:
        with pytest.raises(UsageError, match="--url"):
            warmed("localhost:4020")
        with pytest.raises(UsageError, match="--url"):
            warmed("http://[::1")

    def test_a_request_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CannotRead, match=r"warmup\.json"):
            read_body(tmp_path / "warmup.json")


class TestTheProcess:
    def test_its_end_ends_the_wait_between_tries(self) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        with process() as service:
            killer = threading.Timer(0.3, service.kill)
            killer.start()
            with pytest.raises(WarmupFailed, match=rf"process {service.pid}\) has ended"):
                warmed(url, seconds=60, pid=service.pid)
            killer.join()

    def test_its_end_ends_a_request_under_way(self) -> None:
        held = threading.Event()
        with process() as service, Proxy(0, ANSWER, held=held) as proxy:
            killer = threading.Timer(0.3, service.kill)
            killer.start()
            began = time.monotonic()
            with pytest.raises(WarmupFailed, match="has ended"):
                warmed(proxy.url, seconds=25, pid=service.pid)
            # Not at the timeout, and not when the answer comes.
            assert time.monotonic() - began < 20
            held.set()
            killer.join()

    def test_one_that_nobody_has_reaped_has_ended(self) -> None:
        with process("pass") as service, Proxy(0, ANSWER, held=threading.Event()) as proxy:
            stat = Path(f"/proc/{service.pid}/stat")
            while stat.read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
            with pytest.raises(WarmupFailed, match="has ended"):
                warmed(proxy.url, seconds=25, pid=service.pid)
            assert proxy._held is not None
            proxy._held.set()

    def test_one_that_is_no_more_has_ended(self) -> None:
        with process("pass") as service:
            service.wait()
        with pytest.raises(WarmupFailed, match="has ended"):
            warmed("http://127.0.0.1:9", pid=service.pid)

    def test_one_that_lives_is_left_alone(self) -> None:
        with process() as service, Proxy(0, ANSWER) as proxy:
            assert warmed(proxy.url, pid=service.pid).model == "qwen3"
            assert service.poll() is None

    @pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "$MAINPID", "x", "٣", "9" * 12])
    def test_a_number_that_systemd_does_not_give(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"\$MAINPID"):
            process_id(text)


class TestTheCommand:
    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(build(), ["warmup", *arguments])

    def test_as_the_unit_calls_it(self, tmp_path: Path) -> None:
        body, key = tmp_path / "warmup.json", tmp_path / "proxy.key"
        body.write_bytes(BODY)
        key.write_text(f"{KEY}\n")
        key.chmod(0o400)
        with Proxy(0, ANSWER) as proxy, process() as service:
            flags = ["--url", proxy.url, "--body", str(body), "--timeout", "20"]
            done = self.run(*flags, "--key-file", str(key), "--pid", str(service.pid))
        assert done.exit_code == 0
        assert done.stdout.startswith("warm: qwen3 answered after ")
        assert done.stderr == ""
        assert proxy.asked[0][1]["Authorization"] == f"Bearer {KEY}"

    def test_without_flags_the_site_says_it_all(self, tmp_path: Path) -> None:
        key = tmp_path / "clients.key"
        key.write_text(f"{KEY}\n")
        key.chmod(0o600)
        body = tmp_path / "warmup.json"
        body.write_bytes(BODY)
        with Proxy(0, refusal(401, "invalid_api_key")) as proxy:
            site = tmp_path / "optictl.yaml"
            port = proxy.url.rpartition(":")[2]
            site.write_text(f"proxy: {{base_model: qwen3, port: {port}, key: {{file: {key}}}}}\n")
            done = self.run("--config", str(site), "--body", str(body), "--json")
        assert done.exit_code == 1
        assert json.loads(done.stdout)["errors"][0]["code"] == "warmup_failed"
        assert proxy.asked[0][1]["Authorization"] == f"Bearer {KEY}"

    def test_a_bad_process_id_is_a_usage_error(self) -> None:
        done = self.run("--url", "http://127.0.0.1:9", "--body", "x", "--pid", "$MAINPID")
        assert done.exit_code == 2
        assert "in a unit write: --pid $MAINPID" in done.stderr

    def test_as_the_unit_calls_it_little_is_imported(self, tmp_path: Path) -> None:
        body = tmp_path / "warmup.json"
        body.write_bytes(BODY)
        with Proxy(0, ANSWER) as proxy:
            words = ["warmup", "--url", proxy.url, "--body", str(body), "--timeout", "20"]
            script = (
                "import sys; from optictl.cli import build\n"
                f"try: build()({words!r})\n"
                "finally: print({'jinja2', 'optictl.site'} & set(sys.modules))"
            )
            run = [sys.executable, "-c", script]
            shown = subprocess.run(run, capture_output=True, text=True, check=True)
        assert shown.stdout.endswith("set()\n")
