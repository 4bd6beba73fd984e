"""Refused before a request is read: bodies, paths and keys; and what the log says of it."""

from __future__ import annotations

import io
import json
import logging
import shlex
from typing import Any

import pytest
from conftest import InProcess, MakeProxy, chat_body, events
from refusing import CHAT, assert_next_works, assert_refused, request_lines

from optictl.simulator import SimulatorThread
from proxy.settings import Secret


@pytest.fixture(autouse=True)
def _log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="optillm")


class TestBodies:
    def test_of_40_mb_are_refused(
        self, proxy: InProcess, sim: SimulatorThread, caplog: pytest.LogCaptureFixture
    ) -> None:
        body = json.dumps(chat_body(content="x" * 40_000_000)).encode()
        message = assert_refused(proxy.post(data=body), caplog, 413, "body_too_large")
        assert "32 MB" in message
        assert_next_works(proxy, sim)

    def test_above_the_limit_are_refused_without_being_announced(
        self, make_proxy: MakeProxy, sim: SimulatorThread, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A chunked body says nothing about its length beforehand."""
        proxy = make_proxy(max_body=1000)
        body = json.dumps(chat_body(content="x" * 2000)).encode()
        environ = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True}
        response = proxy.post(CHAT, environ_overrides=environ)
        assert_refused(response, caplog, 413, "body_too_large")
        assert_next_works(proxy, sim)

    def test_up_to_the_limit_are_read(self, make_proxy: MakeProxy) -> None:
        body = json.dumps(chat_body()).encode()
        assert make_proxy(max_body=len(body)).post(data=body).status_code == 200
        assert make_proxy(max_body=len(body) - 1).post(data=body).status_code == 413

    @pytest.mark.parametrize("error", [TimeoutError, BlockingIOError])
    def test_that_stall_are_given_up(
        self,
        proxy: InProcess,
        sim: SimulatorThread,
        caplog: pytest.LogCaptureFixture,
        error: type[OSError],
    ) -> None:
        """A server's socket timeout shows as an exception of its input."""

        class Stalls(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                raise error

        environ = {"wsgi.input": Stalls(), "CONTENT_LENGTH": "100"}
        response = proxy.post(CHAT, environ_overrides=environ)
        assert_refused(response, caplog, 408, "body_timeout")
        assert_next_works(proxy, sim)

    def test_that_end_too_early_are_refused(
        self, proxy: InProcess, sim: SimulatorThread, caplog: pytest.LogCaptureFixture
    ) -> None:
        environ = {"wsgi.input": io.BytesIO(b'{"model":'), "CONTENT_LENGTH": "100"}
        response = proxy.post(CHAT, environ_overrides=environ)
        assert "9 of 100 bytes" in assert_refused(response, caplog)
        assert_next_works(proxy, sim)


class TestPaths:
    @pytest.mark.parametrize(
        "path", ["/", "/v1", "/v1/nothing", "/v2/chat/completions", "/favicon"]
    )
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_that_do_not_exist(
        self, proxy: InProcess, caplog: pytest.LogCaptureFixture, path: str, method: str
    ) -> None:
        response = proxy.http.open(path, method=method)
        assert_refused(response, caplog, 404, "not_found")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", CHAT, "POST"),
            ("DELETE", CHAT, "POST"),
            ("PUT", "/completions", "POST"),
            ("POST", "/v1/models", "GET"),
            ("POST", "/v1/models/sim", "GET"),
            ("POST", "/health", "GET"),
        ],
    )
    def test_that_know_other_methods(
        self,
        proxy: InProcess,
        caplog: pytest.LogCaptureFixture,
        method: str,
        path: str,
        allowed: str,
    ) -> None:
        response = proxy.http.open(path, method=method)
        assert_refused(response, caplog, 405, "method_not_allowed")
        assert allowed in response.headers["Allow"]

    @pytest.mark.parametrize("model", ["nothing", "moa-nothing", "a/b/c"])
    def test_of_models_that_do_not_exist(
        self, proxy: InProcess, caplog: pytest.LogCaptureFixture, model: str
    ) -> None:
        response = proxy.http.get(f"/v1/models/{model}")
        assert_refused(response, caplog, 404, "model_not_found", "model")


class TestKeys:
    KEY = "sk-right"

    def ask(self, proxy: InProcess, header: bytes | None, path: str = CHAT) -> Any:
        """One request with these bytes as Authorization, as a WSGI server hands them over."""
        given = {} if header is None else {"HTTP_AUTHORIZATION": header.decode("latin-1")}
        if path == CHAT:
            return proxy.post(path, json=chat_body(), environ_overrides=given)
        return proxy.http.get(path, environ_overrides=given)

    @pytest.mark.parametrize(
        "header",
        [
            None,
            b"",
            b"Bearer",
            b"Bearer ",
            b"Bearer wrong",
            b"Bearer sk-righ",
            b"Bearer sk-rightt",
            b"Bearer SK-RIGHT",
            b"sk-right",
            b"Basic c2stcmlnaHQ=",
            b"Basic sk-right",
            b"Token sk-right",
            "Bearer schlüssel".encode(),
            b"Bearer \xff\xfe",
            b"Bearer sk-right sk-right",
        ],
    )
    @pytest.mark.parametrize("path", [CHAT, "/v1/models", "/models/sim"])
    def test_that_are_wrong(
        self,
        make_proxy: MakeProxy,
        sim: SimulatorThread,
        caplog: pytest.LogCaptureFixture,
        header: bytes | None,
        path: str,
    ) -> None:
        proxy = make_proxy(proxy_key=Secret(self.KEY))
        response = self.ask(proxy, header, path)
        message = assert_refused(response, caplog, 401, "invalid_api_key")
        assert "Invalid Authorization header" in message
        assert self.KEY not in response.text
        assert sim.log.calls == 0
        assert self.ask(proxy, b"Bearer sk-right").status_code == 200

    @pytest.mark.parametrize(
        "header", [b"Bearer sk-right", b"bearer sk-right", b"BEARER  sk-right "]
    )
    @pytest.mark.parametrize("path", [CHAT, "/v1/models", "/models/sim"])
    def test_that_are_right(self, make_proxy: MakeProxy, header: bytes, path: str) -> None:
        assert self.ask(make_proxy(proxy_key=Secret(self.KEY)), header, path).status_code == 200

    def test_with_letters_of_any_alphabet(
        self, make_proxy: MakeProxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        proxy = make_proxy(proxy_key=Secret("schlüssel-鍵"))
        assert_refused(self.ask(proxy, b"Bearer schlussel"), caplog, 401, "invalid_api_key")
        assert self.ask(proxy, "Bearer schlüssel-鍵".encode()).status_code == 200

    @pytest.mark.parametrize("header", [None, b"Bearer anything", b"Basic x", b"Bearer \xff"])
    def test_of_any_kind_will_do_where_none_is_configured(
        self, proxy: InProcess, sim: SimulatorThread, header: bytes | None
    ) -> None:
        assert self.ask(proxy, header).status_code == 200
        (call,) = sim.log.records
        assert "authorization" not in call.headers

    def test_of_a_client_never_go_upstream(
        self, sim: SimulatorThread, make_proxy: MakeProxy
    ) -> None:
        proxy = make_proxy(proxy_key=Secret(self.KEY), upstream_key=Secret("sk-upstream"))
        assert self.ask(proxy, b"Bearer sk-right").status_code == 200
        (call,) = sim.log.records
        assert self.KEY not in repr(call)

    @pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
    def test_are_not_asked_for_by_health(self, make_proxy: MakeProxy, path: str) -> None:
        proxy = make_proxy(proxy_key=Secret(self.KEY))
        for header in (None, b"Bearer wrong"):
            assert self.ask(proxy, header, path).status_code == 200

    def test_come_before_everything_else(
        self, make_proxy: MakeProxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Who has no key learns nothing about what a body should look like."""
        proxy = make_proxy(proxy_key=Secret(self.KEY), max_body=10)
        assert_refused(proxy.post(data=b"nonsense" * 9), caplog, 401, "invalid_api_key")


class TestLogLines:
    def test_cannot_be_forged_by_names(
        self, proxy: InProcess, caplog: pytest.LogCaptureFixture
    ) -> None:
        proxy.ask("a model=b status=999")
        proxy.http.get('/v1/no"thing status=999')
        fields = [dict(w.split("=", 1) for w in shlex.split(x)) for x in request_lines(caplog)]
        assert [field["status"] for field in fields] == ["200", "404"]
        assert fields[0]["model"] == "a model=b status=999"
        assert fields[1]["path"] == '/v1/no"thing status=999'

    def test_are_one_for_a_stream_too(
        self, proxy: InProcess, caplog: pytest.LogCaptureFixture
    ) -> None:
        response = proxy.ask(stream=True)
        assert events(response.get_data(as_text=True))[-1] == "[DONE]"
        response.close()
        (line,) = request_lines(caplog)
        assert " status=200 code=- " in line
        assert " stream=true calls=1 " in line


@pytest.mark.parametrize("member", ["api_key", "openai_api_key", "api_base", "base_url"])
def test_a_clients_credentials_in_the_body_go_nowhere(
    proxy: InProcess, sim: SimulatorThread, member: str
) -> None:
    for model in ("sim", "bon-sim"):
        assert proxy.ask(model, **{member: "sk-of-the-client"}).status_code == 200
    assert sim.log.calls == 7
    assert not [call for call in sim.log.records if "sk-of-the-client" in str(call.body)]
