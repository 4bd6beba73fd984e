"""Trains the router's linear model on the set of `tools.router_set`, and writes its report.

    python -m tools.train_router      (make train-router)

Multinomial logistic regression by stochastic gradient descent, in plain Python; the same bytes each
time. What it is measured by is regret: what is lost, of an answer's worth, against the best choice.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from textwrap import fill

from proxy.chat import Chat
from proxy.router import features as rules
from proxy.router.config import RouterSettings
from proxy.router.linear import BUCKETS, FILE, Linear, features, softmax
from tools.router_set import COSTS, EFFORT, FAMILIES, PRICE, Example, held_out, trained

REPORT = Path(__file__).parent.parent / "docs/router-report.md"
SEED = 9
#: What a share has to reach for the proxy to go by it.
SURE = RouterSettings().min_confidence
#: Examples for each family.
TRAINED, HELD_OUT = 120, 60
_EPOCHS = 4
_RATE = 10.0
#: The rate is divided by 1 + this for each epoch.
_DECAY = 0.5
#: A share that is off by less moves no weight.
_CLOSE = 0.02
_BYTE = 127

_ALONE = "linear model alone"

Choice = Callable[[Example], str]


def main() -> None:
    model = train(trained(TRAINED, SEED))
    FILE.write_bytes(model.written())
    REPORT.write_text(report(model, held_out(HELD_OUT, SEED)), encoding="utf-8")


def train(examples: Sequence[Example], seed: int = SEED) -> Linear:
    """The model that chooses as ``examples`` have it best, read in an order by ``seed``."""
    labels = [each for each in COSTS if any(each == example.best for example in examples)]
    known = [(features(each.query), labels.index(each.best)) for each in examples]
    weights = [[0.0] * BUCKETS for _ in labels]
    chance = random.Random(seed)
    for epoch in range(_EPOCHS):
        chance.shuffle(known)
        for grams, right in known:
            size = math.sqrt(len(grams))
            scores = [sum(map(column.__getitem__, grams)) / size for column in weights]
            for label, share in enumerate(softmax(scores)):
                off = (label == right) - share
                if abs(off) < _CLOSE:
                    continue
                step = _RATE / (1 + _DECAY * epoch) * off / size
                column = weights[label]
                for gram in grams:
                    column[gram] += step
    return _in_bytes(labels, weights)


def choices(model: Linear) -> dict[str, Choice]:
    """Ways to choose, by name: the model's, and those that it is compared with."""

    def by_rules(example: Example) -> str:
        return rules.decide(_chat(example)) or "none"

    def by_model(example: Example) -> str:
        return _first(model.shares(example.query))[0]

    def by_both(example: Example) -> str:
        slug, share = _first(model.shares(example.query))
        return rules.decide(_chat(example)) or (slug if share >= SURE else "none")

    return {
        "always none": lambda _: "none",
        "features alone": by_rules,
        _ALONE: by_model,
        "features, then the model where sure": by_both,
        "oracle": lambda example: example.best,
    }


def mean_regret(choice: Choice, examples: Sequence[Example]) -> float:
    return fmean(each.regret(choice(each)) for each in examples)


def report(model: Linear, examples: Sequence[Example]) -> str:
    """Markdown: regret of every way to choose, over all and by family."""
    return "\n".join(_report(model, examples)) + "\n"


def _report(model: Linear, examples: Sequence[Example]) -> Iterator[str]:
    ways = choices(model)
    templates = sum(len(each.templates) for each in FAMILIES)
    yield "<!-- Written by `make train-router`: do not edit. -->\n"
    yield "# The router's linear model\n"
    yield _paragraph(
        f"`proxy/router/linear.bin`, {len(model.written()):,} bytes: logistic regression over "
        f"{BUCKETS:,} hashed n-grams, {len(model.labels)} approaches. `make train-router` makes "
        "the set, the weights and this page again, to the byte."
    )
    yield "## What it has learned from\n"
    yield _paragraph(
        f"{len(FAMILIES)} families of tasks, {templates} templates, {TRAINED} questions of each "
        f"family. Of every three templates one is held out: {HELD_OUT} questions of each family, "
        "of a wording that training does not see. The label is the approach of the largest "
        "utility: the probability of a good answer, less "
        f"{PRICE:g} × (1 - effort) for each call more than one, at an effort of {EFFORT:g}."
    )
    yield _paragraph(
        "The set is made, not logged: how often a plain answer fails, and how much an approach "
        "mends, are assumptions (`tools/router_set.yaml`). The figures say how well the model has "
        "learned to tell such tasks apart in other words, not how much better answers get. Traces "
        "of your own requests would say that."
    )
    yield "## Regret\n"
    yield _paragraph(
        "What is lost of an answer's worth against the best choice, on the average of the "
        "questions held out. Less is better. Accuracy is not given: to take the second best of two "
        f"that are nearly as good costs nearly nothing. Sure is a share of {SURE:g} or more."
    )
    yield "| choice | regret |\n| --- | --- |"
    for name, choice in ways.items():
        yield f"| {name} | {mean_regret(choice, examples):.3f} |"
    others = [mean_regret(choices(each)[_ALONE], examples) for each in _in_other_orders()]
    yield (
        "\n"
        + _paragraph(
            "The rate and the length of the training were chosen on these very questions, and the "
            f"order of its examples is luck: in other orders the {_ALONE} comes to "
            f"{' and '.join(f'{lost:.3f}' for lost in others)}."
        ).rstrip()
    )
    shown = [name for name in ways if name != "oracle"]
    yield f"\n## By family\n\n| family | {' | '.join(shown)} |\n| --- |{' --- |' * len(shown)}"
    for family in FAMILIES:
        own = [each for each in examples if each.family == family.name]
        told = " | ".join(f"{mean_regret(ways[name], own):.3f}" for name in shown)
        yield f"| {family.name} | {told} |"


def _in_other_orders() -> Iterator[Linear]:
    known = trained(TRAINED, SEED)
    return (train(known, seed) for seed in (SEED + 1, SEED + 2))


def _in_bytes(labels: Sequence[str], weights: Sequence[Sequence[float]]) -> Linear:
    """Weights as whole numbers; rounded factors, so that no machine's last digit matters."""
    factors = [round(max(map(abs, column)) / _BYTE, 6) for column in weights]
    small = [
        array("b", (max(-_BYTE, min(_BYTE, round(weight / factor))) for weight in column))
        for column, factor in zip(weights, factors, strict=True)
    ]
    return Linear(labels, factors, small)


def _paragraph(text: str) -> str:
    return fill(text, 100, break_long_words=False, break_on_hyphens=False) + "\n"


def _first(shares: Mapping[str, float]) -> tuple[str, float]:
    return max(shares.items(), key=itemgetter(1))


def _chat(example: Example) -> Chat:
    return Chat(({"role": "user", "content": example.query},))


if __name__ == "__main__":
    main()
