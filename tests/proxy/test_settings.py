"""What the service was started with: keys and their files, limits, addresses."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from proxy.errors import ConfigError
from proxy.settings import Limits, Secret, Settings, is_loopback, key_from_flag, read_key_file


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> str:
    file = folder / "key"
    file.write_bytes(content)
    file.chmod(mode)
    return str(file)


class TestKeyFile:
    @pytest.mark.parametrize("content", [b"s3cret", b"s3cret\n", b"s3cret\r\n"])
    def test_a_newline_at_the_end_is_no_part_of_the_key(
        self, tmp_path: Path, content: bytes
    ) -> None:
        assert read_key_file(key_file(tmp_path, content), "--flag").reveal() == "s3cret"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "empty"),
            (b"\n", "empty"),
            (b" \n", "empty"),
            (b"one\ntwo\n", "white space"),
            (b"one two", "white space"),
            (b"s3cret\n\n", "white space"),
            (b"s3\x00cret", "control characters"),
            (b"\xff\xfe", "is not UTF-8"),
        ],
    )
    def test_what_cannot_be_a_key_is_refused(
        self, tmp_path: Path, content: bytes, said: str
    ) -> None:
        file = key_file(tmp_path, content)
        with pytest.raises(ConfigError) as caught:
            read_key_file(file, "--flag")
        message = str(caught.value)
        assert message.startswith("--flag: ")
        assert file in message
        assert said in message
        assert "s3" not in message

    @pytest.mark.parametrize("mode", [0o604, 0o644, 0o666, 0o602])
    def test_a_file_for_everybody_is_refused_with_what_to_do(
        self, tmp_path: Path, mode: int
    ) -> None:
        file = key_file(tmp_path, b"s3cret", mode)
        with pytest.raises(ConfigError, match=f"chmod 600 {file}"):
            read_key_file(file, "--flag")

    @pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
    def test_a_file_for_its_owner_and_group_is_taken(self, tmp_path: Path, mode: int) -> None:
        assert read_key_file(key_file(tmp_path, b"s3cret", mode), "--flag").reveal() == "s3cret"

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=f"--flag: {tmp_path}/none does not exist"):
            read_key_file(f"{tmp_path}/none", "--flag")

    def test_a_folder_is_no_key(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="--flag"):
            read_key_file(str(tmp_path), "--flag")

    def test_a_pipe_is_refused_rather_than_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe", mode=0o600)
        with pytest.raises(ConfigError, match="not a regular file"):
            read_key_file(str(tmp_path / "pipe"), "--flag")

    def test_a_file_in_the_home_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        key_file(tmp_path, b"s3cret")
        assert read_key_file("~/key", "--flag").reveal() == "s3cret"


class TestSecret:
    def test_it_is_in_no_repr(self) -> None:
        settings = Settings(
            base_url="http://unused", proxy_key=Secret("s3cret"), upstream_key=Secret("s3cret")
        )
        assert "s3cret" not in repr(settings)
        assert "s3cret" not in f"{Secret('s3cret')} {Secret('s3cret')!r}"

    def test_it_matches_itself_only(self) -> None:
        secret = Secret("s3cret")
        assert secret.matches(b"s3cret")
        for other in (b"", b"s3cre", b"s3cret ", b"S3CRET", b"\xff"):
            assert not secret.matches(other)

    def test_bytes_on_the_wire_are_utf8(self) -> None:
        assert Secret("clé").matches("clé".encode())
        assert not Secret("clé").matches("clé".encode("latin-1"))

    def test_words_of_others_are_shown_without_it(self) -> None:
        assert Secret("s3cret").redact("no such key: s3cret!") == "no such key: ***!"

    @pytest.mark.parametrize("key", ["", " ", "a b", "a\nb", "a\tb", "\x7f"])
    def test_a_key_that_no_header_can_carry_is_refused(self, key: str) -> None:
        with pytest.raises(ConfigError, match="--flag: the key"):
            key_from_flag(key, "--flag")


class TestLimits:
    def test_the_stricter_of_both_holds_one_by_one(self) -> None:
        asked = Limits(max_calls=5, max_total_tokens=100, max_seconds=None)
        cap = Limits(max_calls=3, max_total_tokens=None, max_seconds=2.5)
        assert asked.within(cap) == Limits(max_calls=3, max_total_tokens=100, max_seconds=2.5)
        assert asked.within(cap) == cap.within(asked)

    def test_no_cap_is_no_limit(self) -> None:
        assert Limits().within(Limits()) == Limits()


def test_a_snapshot_cannot_be_changed() -> None:
    settings = Settings(base_url="http://unused")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.model = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "drain"),
    [({}, 605.0), ({"request_timeout": 10.0}, 15.0), ({"graceful_timeout": 0.0}, 0.0)],
)
def test_a_drain_is_longer_than_any_request_unless_told_otherwise(
    given: dict[str, float], drain: float
) -> None:
    assert Settings(base_url="http://unused", **given).drain == drain  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
    ],
)
def test_which_addresses_stay_on_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.1.1.1", "a b"])
def test_an_address_that_is_none_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match="--host"):
        is_loopback(host)
