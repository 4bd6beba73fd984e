"""What a request runs, in the words that OptiLLM has for it."""

from __future__ import annotations

from proxy.run.plan import Plan


def operation_of(plan: Plan) -> tuple[str, list[str]]:
    """SINGLE, AND or OR, and what that joins: ``("AND", ["re2", "moa"])``."""
    if len(plan.branches) > 1:
        return "OR", [branch.label for branch in plan.branches]
    stages = plan.branches[0].label.split("&")
    return "SINGLE" if len(stages) == 1 else "AND", stages


def announced(plan: Plan) -> str:
    """The words that operators search OptiLLM's log for."""
    operation, approaches = operation_of(plan)
    return f"Using approach(es) {approaches}, operation {operation}, with model {plan.base}"
