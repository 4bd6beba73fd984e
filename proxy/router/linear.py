"""A small linear model of what a question's words ask for: the rung below the classifier. Pure.

Logistic regression over hashed n-grams of words and characters (Weinberger et al.,
arXiv:0902.2206), with weights that ``make train-router`` writes (docs/router-report.md). It is read
from the package at its first use and takes less than a millisecond.
"""

from __future__ import annotations

import math
import re
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import orjson

from proxy.chat import Chat

FILE = Path(__file__).with_name("linear.bin")
#: How many weights a label has.
BUCKETS = 1 << 13

#: Characters of a question that are read, half at its beginning and half at its end.
_READ = 512
_GRAM = 4
_WORD = re.compile(r"\w+|[^\w\s]")
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Linear:
    """For each label `BUCKETS` weights, bytes with a factor in front."""

    labels: Sequence[str]
    factors: Sequence[float]
    weights: Sequence[array[int]]

    @classmethod
    def read(cls, content: bytes) -> Linear:
        """The inverse of `written`."""
        head, _, body = content.partition(b"\n")
        known = orjson.loads(head)
        weights = [
            array("b", body[at : at + BUCKETS])
            for at in range(0, len(known["labels"]) * BUCKETS, BUCKETS)
        ]
        return cls(known["labels"], known["factors"], weights)

    def written(self) -> bytes:
        """A line of JSON, then the weights, label by label."""
        known = {"labels": self.labels, "factors": self.factors}
        return orjson.dumps(known) + b"\n" + b"".join(each.tobytes() for each in self.weights)

    def shares(self, query: str) -> Mapping[str, float]:
        """A share of 1 for each label."""
        grams = features(query)
        size = math.sqrt(len(grams))
        scores = [
            factor * sum(map(weights.__getitem__, grams)) / size
            for factor, weights in zip(self.factors, self.weights, strict=True)
        ]
        return dict(zip(self.labels, softmax(scores), strict=True))


def shares(chat: Chat) -> Mapping[str, float] | None:
    """What the shipped model makes of a chat's question; None where it has no words."""
    query = chat.query
    return shipped().shares(query) if query.strip() else None


def decide(chat: Chat) -> tuple[str, float] | None:
    """The approach with the largest share, and that share; None where there are no words."""
    found = shares(chat)
    return None if found is None else max(found.items(), key=itemgetter(1))


@cache
def shipped() -> Linear:
    return Linear.read(FILE.read_bytes())


def features(query: str) -> list[int]:
    """Which buckets a question falls into, ascending.

    Its length, its words and pairs of them, and its runs of four characters, each hashed. Every
    digit is as good as another.
    """
    text = query if len(query) <= _READ else f"{query[: _READ // 2]} … {query[-_READ // 2 :]}"
    text = _DIGIT.sub("0", " ".join(text.lower().split()))
    words = [word.encode("utf-8", "replace") for word in _WORD.findall(text)]
    grams = {b"\0begin", b"\0length%d" % len(query).bit_length(), *words}
    grams.update(map(b" ".join, pairwise(words)))
    run = text.encode("utf-8", "replace")
    grams.update(run[at : at + _GRAM] for at in range(len(run) - _GRAM + 1))
    return sorted({zlib.crc32(gram) % BUCKETS for gram in grams})


def softmax(scores: Sequence[float]) -> list[float]:
    most = max(scores)
    raised = [math.exp(score - most) for score in scores]
    whole = sum(raised)
    return [each / whole for each in raised]
