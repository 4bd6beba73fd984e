"""A key is read as its writers meant it, and no refusal shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optictl.key_places import read_key
from optictl.quoting import env_line
from optictl.site import KeyPlace
from proxy.errors import ConfigError


def place(folder: Path, content: bytes) -> KeyPlace:
    file = folder / "env"
    file.write_bytes(content)
    return KeyPlace(env_file=str(file), name="KEY")


@pytest.mark.parametrize(
    "content",
    [
        b"KEY=sk-1",
        b"\xef\xbb\xbfKEY=sk-1\r\n",
        b"# KEY=no\nOTHER=no\nexport KEY='sk-1'  # ours\r\n",
        b'KEY=old\n KEY = "sk-1"\n',
        b"KEY=sk-1 # ours\nKEYS=no\n",
    ],
)
def test_a_variable_is_found_however_it_is_written(tmp_path: Path, content: bytes) -> None:
    assert read_key(place(tmp_path, content)).reveal() == "sk-1"


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_what_we_write_for_systemd_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, key: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert read_key(place(folder, env_line("KEY", key).encode())).reveal() == key


@pytest.mark.parametrize(
    "content",
    [b'KEY="sk-secret', b"KEY='sk-secret", b"KEY=sk secret", b"OTHER=sk-secret", b"KEY=secret\xff"],
)
def test_a_refusal_names_the_file_and_shows_no_value(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError) as refused:
        read_key(place(tmp_path, content))
    assert str(tmp_path / "env") in str(refused.value)
    assert "secret" not in str(refused.value).replace(str(tmp_path), "")


def test_a_file_of_its_own_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-1\n")
    file.chmod(0o600)
    assert read_key(KeyPlace(file=str(file))).reveal() == "sk-1"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone"):
        read_key(KeyPlace(env_file=str(tmp_path / "gone"), name="KEY"))
