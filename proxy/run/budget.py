"""What a request may spend, and when it has spent it."""

from __future__ import annotations

from proxy.errors import BudgetExhausted
from proxy.run.ledger import Ledger
from proxy.settings import Limits


class Budget:
    """Checked before each call; the deadline is kept by the run, not here."""

    __slots__ = ("_ledger", "_limits")

    def __init__(self, limits: Limits, ledger: Ledger) -> None:
        self._limits = limits
        self._ledger = ledger

    @property
    def calls_left(self) -> int | None:
        """How many more choices may be asked for; None is no limit."""
        limit = self._limits.max_calls
        return None if limit is None else max(0, limit - self._ledger.committed)

    def check(self, choices: int) -> None:
        """Raise `BudgetExhausted` where ``choices`` more would be over a limit.

        The ledger says so even where the request gets its answer from other calls.
        """
        left = self.calls_left
        if left is not None and choices > left:
            self._ledger.exhausted = "max_calls"
            raise BudgetExhausted(
                f"The budget of {self._limits.max_calls} calls is spent.",
                param="optillm_budget.max_calls",
            )
        limit = self._limits.max_total_tokens
        if limit is not None and self._ledger.total_tokens >= limit:
            self._ledger.exhausted = "max_total_tokens"
            raise BudgetExhausted(
                f"The budget of {limit} tokens is spent ({self._ledger.total_tokens} used).",
                param="optillm_budget.max_total_tokens",
            )
