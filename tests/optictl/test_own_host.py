"""Which URLs are this machine."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from optictl.own_host import Host, this_host

HOST = Host(
    frozenset({"mini", "mini.lan"}), frozenset({ip_address("192.168.1.71"), ip_address("fd00::7")})
)


class TestThisHost:
    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1:4020/v1",
            "http://127.0.0.1:4020",
            "http://127.0.0.1:4020/",
            "http://localhost:4020/v1/",
            "http://LOCALHOST:4020/v1",
            "http://[::1]:4020/v1",
            "http://0.0.0.0:4020/v1",
            "http://[::]:4020",
            "http://[::ffff:127.0.0.1]:4020",
            "http://127.0.1.1:4020/v1",
            "http://Mini:4020/v1",
            "http://mini.lan.:4020/v1",
            "http://192.168.1.71:4020/v1",
            "http://[fd00::7]:4020/v1",
            "https://user:password@localhost:4020/v1",
            "localhost:4020/v1",
        ],
    )
    def test_it_is_us(self, url: str) -> None:
        assert HOST.listens(url, 4020)

    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1:4021/v1",
            "http://192.168.1.72:4020/v1",
            "http://other:4020",
            "http://localhost.example.org:4020",
            "http://localhost",
            "http://localhost:x/v1",
            "http://[::1:4020",
            "",
        ],
    )
    def test_it_is_somebody_else(self, url: str) -> None:
        assert not HOST.listens(url, 4020)

    def test_a_port_that_goes_without_saying(self) -> None:
        assert HOST.listens("http://mini/v1", 80)
        assert HOST.listens("https://mini/v1", 443)

    def test_it_is_asked_of_the_kernel_and_of_the_hosts_file(self, tmp_path: Path) -> None:
        net = tmp_path / "net"
        net.mkdir()
        (net / "fib_trie").write_text(
            "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.168.1.0\n        /24 link UNICAST\n"
            "        |-- 192.168.1.71\n           /32 host LOCAL\n"
            "        |-- 192.168.1.255\n           /32 link BROADCAST\n"
        )
        (net / "if_inet6").write_text("fd000000000000000000000000000007 04 40 00 82     eth0\n")
        hosts = tmp_path / "hosts"
        hosts.write_text(
            "# comment\n127.0.1.1 Box.home box\n192.168.1.71\tmini # this\n192.168.1.72 studio\n"
        )
        host = this_host(tmp_path, hosts, name="Server.example")
        own = ["192.168.1.71", "fd00::7", "server.example", "server", "server.local"]
        assert [each for each in [*own, "box.home", "box", "mini"] if not host.is_at(each)] == []
        others = ["192.168.1.255", "192.168.1.0", "192.168.1.72", "studio", "example"]
        assert [each for each in others if host.is_at(each)] == []

    def test_a_kernel_that_does_not_say_is_none_to_fail_for(self, tmp_path: Path) -> None:
        assert this_host(tmp_path, tmp_path / "hosts", name="mini").is_at("mini")

    def test_this_machine_is_at_its_own_name(self) -> None:
        assert this_host().is_at("localhost")
