"""The effort that a tier's name promises."""

from __future__ import annotations

import pytest

from proxy.ensembles import effort_of


@pytest.mark.parametrize(
    ("name", "effort"),
    [
        ("opt-architect-high-xl", 1.0),
        ("opt-code-balanced-l", 0.75),
        ("opt-chat-balanced-m", 0.55),
        ("opt-route-fast-s", 0.1),
        ("tier-l-balanced", 0.75),
        ("OPT-CHAT-HIGH-M", 0.7),
        ("mine-fast", 0.4),
        ("anything", 0.7),
        ("", 0.7),
    ],
)
def test_size_and_mode_say_it(name: str, effort: float) -> None:
    assert effort_of(name) == effort
