"""An upstream behind TLS: whose certificate is accepted."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import trustme
from conftest import InProcess, MakeProxy

from proxy.settings import read_ca_bundle

ANSWER = b'{"object": "list", "data": [{"id": "sim", "object": "model"}]}'


@pytest.fixture
def upstream(authority: trustme.CA) -> Iterator[str]:
    """A server whose certificate no system knows; its base URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    loop = asyncio.new_event_loop()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}"
        writer.write(head.encode() + b"\r\nConnection: close\r\n\r\n" + ANSWER)
        await writer.drain()
        writer.close()

    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0, ssl=context))
    thread = Thread(target=loop.run_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def close() -> None:
        server.close()
        await asyncio.sleep(0.05)

    asyncio.run_coroutine_threadsafe(close(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def ready(proxy: InProcess) -> tuple[int, str]:
    response = proxy.http.get("/health/ready")
    return response.status_code, str(response.json["reason"])


def test_a_certificate_that_nobody_vouches_for_is_refused(
    make_proxy: MakeProxy, upstream: str
) -> None:
    status, reason = ready(make_proxy(base_url=upstream))
    assert status == 503
    assert "certificate" in reason.lower()


def test_the_operators_ca_vouches_for_it(
    make_proxy: MakeProxy, upstream: str, ca_bundle: Path
) -> None:
    bundle = read_ca_bundle(str(ca_bundle), "--ssl-cert-path")
    assert ready(make_proxy(base_url=upstream, ssl_ca=bundle)) == (200, "None")


def test_verification_can_be_turned_off(make_proxy: MakeProxy, upstream: str) -> None:
    assert ready(make_proxy(base_url=upstream, ssl_verify=False)) == (200, "None")


def test_text_around_the_certificates_does_not_matter(ca_bundle: Path, tmp_path: Path) -> None:
    """Bundles name their issuers in comments, in UTF-8."""
    pem = ca_bundle.read_text()
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(f"# Főtanúsítvány\n{pem}\n# and again\n{pem}", encoding="utf-8")
    assert pem in read_ca_bundle(str(bundle), "--flag")
