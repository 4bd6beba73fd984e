"""What systemd hears, and how often."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.board import Board, Row
from proxy.notify import Notifier
from proxy.server import status_of


class Systemd:
    """A socket that hears, and a clock that is set by hand."""

    def __init__(self, address: str) -> None:
        self.now = 100.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.setblocking(False)
        self.notifier = Notifier(address, lambda: self.now)

    def heard(self) -> list[str]:
        """All messages since the last time."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    path = str(tmp_path / "notify")
    systemd = Systemd(path if request.param == "path" else f"@{path}")
    yield systemd
    systemd.close()


def test_a_status_is_said_once_and_again_only_where_it_is_news(systemd: Systemd) -> None:
    systemd.notifier.ready("one")
    assert systemd.heard() == ["READY=1\nSTATUS=one"]
    systemd.now += 10
    systemd.notifier.status("one")
    assert systemd.heard() == []
    systemd.notifier.status("two")
    assert systemd.heard() == ["STATUS=two"]


def test_news_within_a_second_wait_and_only_the_last_is_said(systemd: Systemd) -> None:
    systemd.notifier.ready("zero")
    systemd.heard()
    for number in range(10):
        systemd.now += 0.125
        systemd.notifier.status(f"status {number}")
    assert systemd.heard() == ["STATUS=status 7"]
    systemd.now += 1
    systemd.notifier.status("status 9")
    assert systemd.heard() == ["STATUS=status 9"]


def test_a_reload_is_stamped_with_the_clock_that_systemd_looks_at(systemd: Systemd) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    systemd.notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    (message,) = systemd.heard()
    first, second = message.split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= after


def test_without_systemd_nothing_is_said() -> None:
    notifier = Notifier(None)
    notifier.ready("fine")
    notifier.send("STOPPING=1")


def test_a_socket_that_is_gone_is_a_warning_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Notifier(str(tmp_path / "gone")).send("READY=1")
    assert "cannot notify systemd" in caplog.text


def rows(*counts: tuple[int, int, int]) -> list[Row]:
    """Rows of workers with so many requests, calls under way, and calls that wait."""
    board = Board()
    made: list[Row] = []
    for requests, under_way, waiting in counts:
        row = board.row(made)
        row.hold(requests)
        row.stamp(1.0, waiting=waiting, under_way=under_way, lag=0.0, tasks=0, ready=True)
        made.append(row)
    return made


@pytest.mark.parametrize(
    ("workers", "lost", "refusal", "status"),
    [
        ([], 0, "", "0 workers, 0 requests"),
        ([(0, 0, 0)], 0, "", "1 worker, 0 requests"),
        ([(1, 1, 0)], 0, "", "1 worker, 1 request, 1 call under way"),
        (
            [(5, 30, 1), (7, 10, 2)],
            1,
            "",
            "2 workers, 12 requests, 40 calls under way, 3 waiting; 1 request lost with a worker",
        ),
        (
            [(0, 0, 0)],
            2,
            "config.yaml:3:1: no such key\nsee the docs",
            "1 worker, 0 requests; 2 requests lost with a worker; "
            "reload refused: config.yaml:3:1: no such key",
        ),
    ],
)
def test_the_status_is_one_line_of_what_is_so(
    workers: list[tuple[int, int, int]], lost: int, refusal: str, status: str
) -> None:
    assert status_of(rows(*workers), lost, refusal) == status
