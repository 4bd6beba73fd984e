"""The tree of rStar: typed steps of reasoning, which may follow which, and where to go next.

Qi, Ma, Xu, Zhang, Yang, Yang: Mutual Reasoning Makes Smaller LLMs Stronger Problem-Solvers,
arXiv:2408.06195. A rollout goes from the question to an answer; it is rewarded with the share of
all answers so far that agree with its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import log, sqrt
from random import Random


class Action(StrEnum):
    """What a step does; the paper's names."""

    THINK = "A1"
    ANSWER = "A2"
    SUBQUESTION = "A3"
    REANSWER = "A4"
    REPHRASE = "A5"


#: What may follow what; None is the question itself. An answer ends the trajectory.
LEGAL: Mapping[Action | None, Sequence[Action]] = {
    None: (Action.THINK, Action.ANSWER, Action.SUBQUESTION, Action.REPHRASE),
    Action.REPHRASE: (Action.THINK, Action.ANSWER, Action.SUBQUESTION),
    Action.SUBQUESTION: (Action.THINK, Action.ANSWER, Action.SUBQUESTION, Action.REANSWER),
    Action.REANSWER: (Action.THINK, Action.ANSWER, Action.SUBQUESTION),
    Action.THINK: (Action.THINK, Action.ANSWER),
    Action.ANSWER: (),
}


@dataclass(slots=True, eq=False)
class Step:
    """One step; the root, the question, has neither action nor parent.

    ``text`` is None as long as it is being written; ``answer`` is the class of an answer.
    """

    action: Action | None = None
    parent: Step | None = None
    text: str | None = None
    answer: str | None = None
    children: list[Step] = field(default_factory=list)
    #: Rollouts through it, those under way included.
    visits: int = 0

    @property
    def steps(self) -> list[Step]:
        """The way here from the question, which is not among them."""
        return [] if self.parent is None else [*self.parent.steps, self]

    def answers(self) -> Iterator[str]:
        """The answers that it led to so far."""
        if self.answer is not None:
            yield self.answer
        for child in self.children:
            yield from child.answers()


@dataclass(slots=True)
class Search:
    """Trajectories of at most ``max_depth`` steps, found by UCT over the legal actions."""

    max_depth: int
    exploration: float
    root: Step = field(default_factory=Step)

    def legal(self, step: Step) -> Sequence[Action]:
        """The actions that may follow; only an answer where no more than one step is left."""
        last = len(step.steps) + 1 >= self.max_depth
        return (Action.ANSWER,) if last and step.action is not Action.ANSWER else LEGAL[step.action]

    def begin(self) -> Step:
        """Where a rollout begins."""
        self.root.visits += 1
        return self.root

    def advance(self, step: Step, random: Random) -> Step:
        """The rollout's next step; one without a text is new, and is to be written.

        Actions that were not taken yet come first, then the one with the best bound. Each answer
        is a new one, since its agreement with others is the reward; another step is taken up
        again, or made a second time where the first is still being written.
        """
        taken = {
            action: [child for child in step.children if child.action is action]
            for action in self.legal(step)
        }
        untried = [action for action, children in taken.items() if not children]
        if untried:
            action = random.choice(untried)
        else:
            shares = self.shares()
            action = max(taken, key=lambda known: self._bound(step, taken[known], shares))
        child = next((child for child in taken[action] if child.text is not None), None)
        if child is None or action is Action.ANSWER:
            child = Step(action, step)
            step.children.append(child)
        child.visits += 1
        return child

    def drop(self, step: Step) -> None:
        """Forget a new step that could not be written: its rollout ends here without a reward."""
        assert step.parent is not None
        step.parent.children.remove(step)

    def shares(self) -> Mapping[str, float]:
        """The share of each class in all answers so far."""
        counts = Counter(self.root.answers())
        return {answer: count / counts.total() for answer, count in counts.items()}

    def _bound(self, step: Step, children: Sequence[Step], shares: Mapping[str, float]) -> float:
        visits = sum(child.visits for child in children)
        reward = sum(shares[answer] for child in children for answer in child.answers())
        return reward / visits + self.exploration * sqrt(log(step.visits) / visits)
