"""Azure OpenAI's addresses, and tokens of Entra ID from a managed identity on this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from aiohttp import web
from canned import run
from yarl import URL

from proxy.errors import ConfigError, UpstreamAuth
from proxy.settings import Secret
from proxy.upstream import azure
from proxy.upstream.azure import EntraToken, chat_url, models_url

HOST = "https://us.openai.azure.com"
VERSION = "2024-10-21"
QUERY = f"?api-version={VERSION}"


class TestAddresses:
    @pytest.mark.parametrize("base", [HOST, f"{HOST}/", f"{HOST}/openai", f"{HOST}/openai/"])
    def test_of_a_resource(self, base: str) -> None:
        deployed = f"{HOST}/openai/deployments/gpt-4o/chat/completions{QUERY}"
        assert chat_url(base, "gpt-4o", VERSION) == deployed
        assert models_url(base, VERSION) == f"{HOST}/openai/models{QUERY}"

    @pytest.mark.parametrize("end", ["", "/", "/chat/completions", "/chat/completions/"])
    def test_of_a_deployment_that_the_base_names(self, end: str) -> None:
        base = f"{HOST}/openai/deployments/mine{end}"
        deployed = f"{HOST}/openai/deployments/mine/chat/completions{QUERY}"
        assert chat_url(base, "another", VERSION) == deployed
        assert models_url(base, VERSION) == f"{HOST}/openai/models{QUERY}"

    @pytest.mark.parametrize(
        "base", ["https://openai.corp", "https://openai", "http://a:1/openai2"]
    )
    def test_of_a_gateway_that_is_named_alike(self, base: str) -> None:
        deployed = f"{base}/openai/deployments/m/chat/completions{QUERY}"
        assert chat_url(base, "m", VERSION) == deployed
        assert chat_url(f"{base}/openai/", "m", VERSION) == deployed

    def test_of_a_gateway_with_a_prefix(self) -> None:
        assert models_url("https://apim/team/openai", "v1") == (
            "https://apim/team/openai/models?api-version=v1"
        )

    def test_a_name_stays_one_segment(self) -> None:
        url = URL(chat_url(HOST, "a/b?c=d#e", "1&2"))
        assert url.parts == ("/", "openai", "deployments", "a/b?c=d#e", "chat", "completions")
        assert dict(url.query) == {"api-version": "1&2"}
        assert url.fragment == ""

    def test_a_key_has_a_header_of_its_own(self) -> None:
        assert azure.headers(Secret("k")) == {"api-key": "k"}


class Entra:
    """What `EntraToken` fetches from, by hand: tokens that last ``lifetime`` seconds."""

    def __init__(self, lifetime: float = 3600) -> None:
        self.lifetime = lifetime
        self.fetched = 0
        self.failing: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def fetch(self) -> SimpleNamespace:
        self.fetched += 1
        number = self.fetched
        await self.open.wait()
        if self.failing is not None:
            raise self.failing
        return SimpleNamespace(token=f"t{number}", expires_on=int(time.time() + self.lifetime))


class TestKeeping:
    def test_a_token_is_fetched_once(self) -> None:
        async def test() -> None:
            entra = Entra()
            token = EntraToken(entra.fetch)
            assert [await token.header() for _ in range(3)] == ["Bearer t1"] * 3

        run(test)

    def test_five_minutes_before_its_end_it_is_replaced(self) -> None:
        async def test() -> None:
            entra = Entra(lifetime=299)
            token = EntraToken(entra.fetch)
            assert [await token.header() for _ in range(2)] == ["Bearer t1", "Bearer t2"]
            entra.lifetime = 310
            assert [await token.header() for _ in range(2)] == ["Bearer t3", "Bearer t3"]

        run(test)

    def test_those_who_come_together_share_one(self) -> None:
        async def test() -> None:
            entra = Entra()
            entra.open.clear()
            token = EntraToken(entra.fetch)
            async with asyncio.TaskGroup() as calls:
                waiting = [calls.create_task(token.header()) for _ in range(20)]
                await asyncio.sleep(0.01)
                entra.open.set()
            assert {task.result() for task in waiting} == {"Bearer t1"}

        run(test)

    def test_one_that_goes_away_leaves_the_others_theirs(self) -> None:
        async def test() -> None:
            entra = Entra()
            entra.open.clear()
            token = EntraToken(entra.fetch)
            first, second = (asyncio.create_task(token.header()) for _ in range(2))
            await asyncio.sleep(0.01)
            first.cancel()
            await asyncio.sleep(0)
            entra.open.set()
            assert await second == "Bearer t1"
            assert first.cancelled()

        run(test)

    def test_a_failure_is_all_theirs_and_forgotten(self) -> None:
        async def test() -> None:
            entra = Entra()
            entra.failing = UpstreamAuth("no")
            token = EntraToken(entra.fetch)
            said = await asyncio.gather(*(token.header() for _ in range(3)), return_exceptions=True)
            assert all(isinstance(error, UpstreamAuth) for error in said)
            assert entra.fetched == 1
            entra.failing = None
            assert await token.header() == "Bearer t2"

        run(test)


@asynccontextmanager
async def managed_identity(
    monkeypatch: pytest.MonkeyPatch, status: int, answer: Mapping[str, str]
) -> AsyncIterator[list[web.Request]]:
    """App Service's endpoint for managed identities, and no other credential.

    Source: https://learn.microsoft.com/azure/app-service/overview-managed-identity ("REST
    endpoint reference"): GET with ``resource``, ``api-version`` and ``X-IDENTITY-HEADER``.
    """
    asked: list[web.Request] = []

    async def token(request: web.Request) -> web.Response:
        asked.append(request)
        return web.json_response(dict(answer), status=status)

    app = web.Application()
    app.router.add_get("/msi/token", token)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{port}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "confidential-header")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("AZURE_CLIENT_ID", "IDENTITY_SERVER_THUMBPRINT", "MSI_ENDPOINT", "MSI_SECRET"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield asked
    finally:
        await runner.cleanup()


class TestTheLibrary:
    def test_a_managed_identity_s_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def test() -> None:
            ends = str(int(time.time()) + 86400)
            answer = {
                "access_token": "real",
                "expires_on": ends,
                "resource": "https://cognitiveservices.azure.com",
                "token_type": "Bearer",
            }
            async with managed_identity(monkeypatch, 200, answer) as asked:
                token = EntraToken()
                assert await token.header() == "Bearer real"
                assert await token.header() == "Bearer real"
            (request,) = asked
            assert request.query["resource"] == "https://cognitiveservices.azure.com"
            assert request.headers["X-IDENTITY-HEADER"] == "confidential-header"

        run(test)

    def test_its_words_without_secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def test() -> None:
            words = "No such identity: confidential-header, eyJhbGciOiJub25lIn0.eyJhIjoxfQ.sig"
            refused = {"error": "invalid_request", "error_description": words, "message": words}
            async with managed_identity(monkeypatch, 400, refused):
                with pytest.raises(UpstreamAuth, match=r"No such identity: \*\*\*, \*\*\*") as no:
                    await EntraToken().header()
            assert "confidential" not in no.value.message
            assert "eyJ" not in no.value.message

        run(test)

    def test_a_setting_that_it_does_not_know(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")

        async def test() -> None:
            with pytest.raises(UpstreamAuth, match="nonsense"):
                await EntraToken().header()

        run(test)

    def test_where_it_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"pip install 'optictl\[azure\]'"):
            azure.check_installed()
