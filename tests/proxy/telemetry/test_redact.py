"""What keys look like, and what only looks like one."""

from __future__ import annotations

import orjson
import pytest

from proxy.settings import Secret
from proxy.telemetry.redact import Cleaner, is_clean, without_keys

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sk-1234", "***"),
        ("my key is sk-proj-abcDEF_123, yes", "my key is ***, yes"),
        ("Authorization: Bearer abc123def456", "Authorization: Bearer ***"),
        ('{"authorization": "bearer abc123def456"}', '{"authorization": "bearer ***"}'),
        ("Basic dXNlcjpwYXNzd29yZA==", "Basic ***"),
        ("OPENAI_API_KEY=abcd1234\nnext", "OPENAI_API_KEY=***\nnext"),
        ('{\\"api_key\\": \\"hunter2\\"}', '{\\"api_key\\": \\"***\\"}'),
        ("password: correct-horse", "password: ***"),
        (f"token {TOKEN} ends", "token *** ends"),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "***"),
        ("AKIAIOSFODNN7EXAMPLE is Amazon's", "*** is Amazon's"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- x", "*** x"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE and it breaks off", "***"),
    ],
)
def test_a_key_is_hidden(text: str, shown: str) -> None:
    assert without_keys(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "a task-management system and the risk-averse",
        "basic understanding of who bears what",
        "the password is wrong",
        "max_tokens: 4096",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_what_is_no_key_stays(text: str) -> None:
    assert without_keys(text) == text


def test_members_named_for_keys_are_hidden_whatever_they_hold() -> None:
    cleaned = Cleaner(1000).clean({"X-Api-Key": "a", "headers": [{"authorization": "b"}], "x": "c"})
    assert cleaned == {"X-Api-Key": "***", "headers": [{"authorization": "***"}], "x": "c"}


def test_a_known_key_is_hidden_and_a_word_is_none() -> None:
    secrets = [Secret("correct-horse-battery"), Secret("optillm")]
    cleaned = Cleaner(1000, secrets).clean({"optillm_approach": "optillm correct-horse-battery"})
    assert cleaned == {"optillm_approach": "optillm ***"}


def test_sounds_and_files_are_told_by_their_size() -> None:
    cleaned = Cleaner(10_000).clean({"input_audio": {"data": "A" * 5000, "format": "wav"}})
    assert cleaned == {"input_audio": {"data": "[5000 characters]", "format": "wav"}}


def test_room_is_kept_to_whatever_is_nested() -> None:
    cleaner = Cleaner(100)
    cleaned = cleaner.clean([{"a": "x" * 60}, {"b": "y" * 60}, {"c": "z" * 60}])
    assert cleaner.cut
    assert cleaned[0] == {"a": "x" * 60}
    assert len(str(cleaned)) < 200


def test_half_a_key_at_the_cut_is_not_left() -> None:
    text = "x" * 90 + " sk-abcdefghijklmnop"
    assert "sk-" not in Cleaner(108).clean(text)


def test_what_is_nested_without_end_is_cut() -> None:
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]
    cleaner = Cleaner(1_000_000)
    cleaner.clean(nested)
    assert cleaner.cut


@pytest.mark.parametrize(
    "piece", ["eyJ", "eyJ-", "eyJ_a.", "sk-", "bearer ", "data:a/a;", "-----BEGIN ", "api_key= "]
)
def test_no_text_takes_for_ever(piece: str) -> None:
    text = piece * (256 * 1024 // len(piece))
    assert Cleaner(10**6).clean(text)


BEGINNINGS = [
    *("sk-", "gsk_", "xai-", "hf_", "ghp_", "gho_", "ghs_", "ghu_", "github_pat_", "glpat-"),
    *("xoxa-", "xoxb-", "xoxp-", "xoxs-", "sk_live_", "sk_test_", "rk_live_", "rk_test_"),
    *("AIza", "bearer ", "Bearer ", "BEARER ", "basic ", "Basic "),
    *("api_key=", "api-key: ", "apikey=", "apiKey=", "ApiKey: ", "API_KEY=", "Api-Key: "),
    *("secret_key=", "access_token=", "ACCESS_TOKEN=", "client_secret=", "Password: ", "passwd="),
]
MEMBERS = [
    *("access_token", "access-token", "api_key", "apikey", "Authorization", "client-secret"),
    *("OPENAI_API_KEY", "password", "Proxy-Authorization", "refresh_token", "refresh-token"),
    *("secret_key", "X-Api-Key", "data", "file_data", "b64_json"),
]


@pytest.mark.parametrize(
    "entry",
    [
        *({"said": f"it is {beginning}{'A1b2' * 10}"} for beginning in BEGINNINGS),
        *({"deep": [{member: "Zm9v" * 100}]} for member in MEMBERS),
        {"said": TOKEN},
        {"said": "AKIAIOSFODNN7EXAMPLE"},
        {"said": "-----BEGIN PRIVATE KEY-----\nMIIE"},
        {"said": f"data:image/png;base64,{'A' * 200}"},
        {"said": "correct-horse-battery"},
        {"said": "a" * 300_000},
    ],
    ids=str,
)
def test_no_line_that_would_be_changed_is_called_clean(entry: dict[str, object]) -> None:
    secrets = [Secret("correct-horse-battery")]
    assert Cleaner(2**20, secrets).clean(entry) != entry
    assert not is_clean(orjson.dumps(entry), secrets)


def test_an_ordinary_line_is_clean() -> None:
    assert is_clean(b'{"total_tokens": 9, "content": "The answer is 391, rightly so."}')
