"""Keys and bulk out of what is written for people to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson
from ahocorasick_rs import BytesAhoCorasick, MatchKind

from proxy.settings import Secret

_HIDDEN = "***"


def _patterns(beginnings: Sequence[str], rest: str) -> list[tuple[str, re.Pattern[str]]]:
    """One for each beginning: looked for first, it makes most texts cost next to nothing."""
    return [(each, re.compile(f"({re.escape(each)}){rest}", re.DOTALL)) for each in beginnings]


#: What keys begin with, by their makers; signed tokens; PEM. None of it inside a word.
_KEYS = [
    *_patterns(["sk-"], r"[\w-]{4,}"),
    *_patterns(["gsk_", "xai-", "hf_", "ghp_", "gho_", "ghs_", "ghu_"], r"[\w-]{10,}"),
    *_patterns(["github_pat_", "glpat-", "xoxa-", "xoxb-", "xoxp-", "xoxs-"], r"[\w-]{10,}"),
    *_patterns(["sk_live_", "sk_test_", "rk_live_", "rk_test_"], r"\w{10,}"),
    *_patterns(["AKIA"], r"[0-9A-Z]{16}\b"),
    *_patterns(["AIza"], r"[\w-]{30,}"),
    # Only where such a run begins: to try each of its places would take for ever.
    *_patterns(["eyJ"], r"(?<![\w-]eyJ)[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),
    *_patterns(["-----BEGIN "], r"[A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|\Z)"),
]
#: What stands before a key: a scheme, or a name that it is assigned to, also in quoted JSON.
_ASSIGNED = [
    *_patterns(["earer ", "EARER ", "asic "], r"(?P<kept> *)(?=[^\s\"']*[\d=])[^\s\"',;\\]{6,}"),
    *_patterns(
        [
            *("api_key", "api-key", "apikey", "apiKey", "ApiKey", "API_KEY", "API-KEY", "Api-Key"),
            *("secret_key", "SECRET_KEY", "access_token", "ACCESS_TOKEN"),
            *("client_secret", "CLIENT_SECRET", "password", "PASSWORD", "Password", "passwd"),
        ],
        r"(?P<kept>\\?[\"']?\s{0,3}[:=]\s{0,3}\\?[\"']?)[^\s\"'\\,;&}]{4,}",
    ),
]
#: No key is as short as that.
_NO_KEY = 7
#: Members whose value is a key, whatever it looks like.
_SECRET_MEMBERS = frozenset({
    "access_token", "api_key", "apikey", "authorization", "client_secret", "openai_api_key",
    "password", "proxy_authorization", "refresh_token", "secret_key", "x_api_key",
})  # fmt: skip
_DATA_URL = re.compile(
    r"(data:[\w.+-]{1,60}/[\w.+-]{1,60}(?:;[\w=.+-]{1,60})*,)([\w+/=%.~-]{128,})"
)
#: Members that hold sounds, pictures and files in base64.
_BULK_MEMBERS = frozenset({"b64_json", "data", "file_data"})
_BULK = 256
#: In small letters, one of these stands in whatever is not left as it is: a part of what a key, its
#: name or bulk begins with. JSON escapes none of their characters.
_STEMS = [
    *(b"sk-", b"gsk_", b"xai-", b"hf_", b"ghp_", b"gho_", b"ghs_", b"ghu_", b"b_pat_", b"glpat-"),
    *(b"xox", b"k_live_", b"k_test_", b"akia", b"aiza", b"eyj", b"--begin", b"earer ", b"asic "),
    *(b"api_key", b"api-key", b"apikey", b"secret", b"passw", b"authorization"),
    *(b"ess_token", b"ess-token", b"esh_token", b"esh-token"),
    *(b"data:", b'"data"', b"e_data", b"b64_json"),
]
#: Which of those that overlap is found does not matter, but lets it look at 32 bytes in one step,
#: which takes a seventh of the time.
_AUTOMATON = BytesAhoCorasick(_STEMS, matchkind=MatchKind.LeftmostFirst)
#: Characters of one text; a key may begin just before the end.
_LONGEST = 256 * 1024
_BEYOND = 512
_DEEPEST = 150
#: Characters of a member's name that is nobody's text.
_NAME = 32
#: Shorter keys are words, as OptiLLM's own `optillm` is.
_SHORTEST = 10
#: What a member or an item costs beside its text.
_ITEM = 8


def may_hold_keys(text: str) -> bool:
    """Whether `without_keys` has to look through ``text``; it or JSON that quotes it."""
    return _has_stem(text.encode(errors="surrogatepass"))


def without_keys(text: str) -> str:
    """``text`` with ``***`` in the place of whatever looks like a key."""
    if not may_hold_keys(text):
        return text
    for beginning, pattern in _KEYS:
        if beginning in text:
            text = pattern.sub(_hidden, text)
    for beginning, pattern in _ASSIGNED:
        if beginning in text:
            text = pattern.sub(rf"\g<1>\g<kept>{_HIDDEN}", text)
    return text


def _hidden(found: re.Match[str]) -> str:
    within = found.start() > 0 and found.string[found.start() - 1].isalnum()
    return found[0] if within else _HIDDEN


class Verbatim:
    """Takes JSON as it is: what comes of it is looked through as a whole (`is_clean`)."""

    cut = False

    def clean(self, value: Any) -> Any:
        return value

    def text(self, text: str) -> str:
        return text

    def parsed(self, line: bytes, **more: str) -> Any:
        """What stands in ``line``, an object in JSON as we write it, and ``more`` members."""
        return orjson.Fragment(b"%b,%b" % (line[:-1], orjson.dumps(more)[1:]))


def is_clean(line: bytes, secrets: Sequence[Secret] = ()) -> bool:
    """Whether a `Cleaner` would leave all of a line of JSON as it is.

    Nothing of what a key, its name or bulk begins with stands in it, which can be said at once.
    """
    if len(line) > _LONGEST or any(each.reveal().encode() in line for each in secrets):
        return False
    return not _has_stem(line)


def _has_stem(text: bytes) -> bool:
    return bool(_AUTOMATON.find_matches_as_indexes(text.lower()))


class Cleaner:
    """Copies JSON without keys and without bulk, until ``room`` characters are used up.

    Keys that are known are hidden whatever they look like.
    """

    def __init__(self, room: int, secrets: Sequence[Secret] = ()) -> None:
        self._room = room
        self._secrets = [each for each in secrets if len(each.reveal()) >= _SHORTEST]
        #: Whether something was left out because there was too much.
        self.cut = False

    def clean(self, value: Any, depth: int = 0) -> Any:
        self._room -= _ITEM
        if isinstance(value, str):
            return self.text(value)
        if not isinstance(value, dict | list | tuple):
            return value
        if depth == _DEEPEST:
            self.cut = True
            return None
        if isinstance(value, dict):
            members: dict[str, Any] = {}
            for name, member in value.items():
                if not self._any_room():
                    break
                shown = self.text(name) if len(name) > _NAME else name
                members[shown] = self._member(name, member, depth)
            return members
        items: list[Any] = []
        for item in value:
            if not self._any_room():
                break
            items.append(self.clean(item, depth + 1))
        return items

    def parsed(self, line: bytes, **more: str) -> Any:
        return {**self.clean(orjson.loads(line)), **more}

    def text(self, text: str) -> str:
        if len(text) < min(_NO_KEY, self._room):
            self._room -= len(text)
            return text
        limit = max(0, min(_LONGEST, self._room))
        cleaned = text[: limit + _BEYOND]
        for secret in self._secrets:
            cleaned = secret.redact(cleaned)
        cleaned = without_keys(cleaned)
        if "data:" in cleaned:
            cleaned = _DATA_URL.sub(lambda url: f"{url[1]}[{len(url[2])} characters]", cleaned)
        if len(text) > limit:
            self.cut = True
            cleaned = f"{cleaned[:limit]}… [of {len(text)} characters]"
        self._room -= len(cleaned)
        return cleaned

    def _member(self, name: str, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            if name.lower().replace("-", "_") in _SECRET_MEMBERS:
                return _HIDDEN
            if name in _BULK_MEMBERS and len(value) > _BULK:
                return f"[{len(value)} characters]"
        return self.clean(value, depth + 1)

    def _any_room(self) -> bool:
        if self._room <= 0:
            self.cut = True
        return self._room > 0
