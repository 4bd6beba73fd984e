"""The tests that a problem states: found where they are unmistakable, and nowhere else."""

from __future__ import annotations

import pytest

from proxy.search.programs import Case
from proxy.search.stated import stated_tests

HUMANEVAL = '''\
def near(numbers: list[float], most: float) -> bool:
    """Whether two numbers are closer to each other than that.
    >>> near([1.0, 2.0], 0.5)
    False
    >>> near([1.0, 1.2], 0.5)
    True
    """
'''
CODEFORCES = """\
Input

The first line contains n.

Output

Print the sum.

Examples

Input

3
1 2 3

Output

6

Input
1
5
Output
5

Note

In the first example, 1 + 2 + 3 = 6.
"""
LEETCODE = """\
class Solution:
    def search(self, nums: List[int], target: int, wrap: bool) -> List[int]:

Example 1:

**Input:** nums = [2,7], target = 9, wrap = true
**Output:** [true,1]
**Explanation:** it is there.

Constraints:

2 <= nums.length
"""


def code(given: str, wanted: str | None) -> Case:
    return Case("code", given, wanted)


def stdin(given: str, wanted: str) -> Case:
    return Case("stdin", given, wanted)


class TestCode:
    def test_of_a_docstring(self) -> None:
        assert stated_tests(HUMANEVAL) == [
            code("near([1.0, 2.0], 0.5)", "False"),
            code("near([1.0, 1.2], 0.5)", "True"),
        ]

    def test_a_session_with_what_leads_up_to_it(self) -> None:
        problem = (
            "```\n>>> s = Stack()\n>>> for i in range(2):\n...     s.push(i)\n...\n>>> s.pop()\n1\n"
            ">>> s.fail()\nTraceback (most recent call last):\n  ...\n```\nWrite that class."
        )
        assert stated_tests(problem) == [
            code("s = Stack()", None),
            code("for i in range(2):\n    s.push(i)\n", None),
            code("s.pop()", "1"),
            code("s.fail()", None),
        ]

    def test_assertions(self) -> None:
        deep = f"assert f({'-' * 300}1) == {'[' * 150}{']' * 150}"
        assert len(stated_tests(deep)) == 1
        problem = "Write f.\nassert f(1) == (2,), 'why'\n  assert not f(3)\nassert f(\n    4) == 5"
        assert stated_tests(problem) == [
            code("bool(f(1) == (2,))", "True"),
            code("bool(not f(3))", "True"),
        ]


class TestSamples:
    @pytest.mark.parametrize(
        "problem",
        [
            "Sample Input 1:\n3 4\n\nSample Output 1:\n7\n\nSum them.",
            "### Sample Input\n```\n3 4\n```\n### Sample Output\n```\n7\n```\nSum them.",
            "INPUT FORMAT: two numbers\n\nSAMPLE INPUT:\n3 4\n\nSAMPLE OUTPUT:\n7\n",
            "Sum them. For example:\nInput: 3 4\nOutput: 7",
            "Example 1: Input: 3 4 Output: 7 Explanation: it is their sum.",
            "**Input:**\n```\n3 4\n```\n**Output:**\n```\n7\n```",
            "-----Examples-----\r\nInput\r\n3 4\r\n\r\nOutput\r\n7\r\n",
        ],
    )
    def test_in_many_shapes(self, problem: str) -> None:
        assert stated_tests(problem) == [stdin("3 4\n", "7")]

    def test_not_what_describes_them(self) -> None:
        assert stated_tests(CODEFORCES) == [stdin("3\n1 2 3\n", "6"), stdin("1\n5\n", "5")]

    def test_that_name_arguments_are_calls(self) -> None:
        call = "Solution().search(nums = [2,7], target = 9, wrap = True)"
        assert stated_tests(LEETCODE) == [code(call, "[True,1]")]

    def test_of_a_plain_function(self) -> None:
        problem = "def f(text, k=1):\n    ...\n\nExample:\nInput: text = 'a=1', k = 2\nOutput: 3"
        assert stated_tests(problem) == [code("f(text = 'a=1', k = 2)", "3")]

    def test_of_a_function_that_nobody_names_are_none(self) -> None:
        assert not stated_tests("Example 1:\nInput: nums = [2], target = 9\nOutput: [0,1]")


@pytest.mark.parametrize(
    "problem",
    [
        "",
        "What is 17 * 23?",
        "Why is this?\n>>> 0.1 + 0.2\n0.30000000000000004\n>>> x = [3, 1]\n>>> sorted(x)\n[1, 3]",
        ">>> import math\n>>> math.sqrt(4)\n2.0\n",
        ">>> def f():\n...     return 1\n>>> f()\n1",
        "They assert (in vain) that\nassert dominance\nis assert f(1).",
        "Input: I love it\nOutput: positive\n\nInput: I hate it\nOutput:",
        "Input: two numbers.\nOutput: their sum.",
        ">>> f(1)\n" + "x" * 5000,
    ],
)
def test_other_problems_state_none(problem: str) -> None:
    assert stated_tests(problem) == []


def test_there_are_only_so_many() -> None:
    assert len(stated_tests("\n".join(f"assert f({n}) == {n}" for n in range(1000)))) == 12


@pytest.mark.parametrize(
    "piece",
    ["#", " ", "-", "\n", "```\n", ">>> ", "Input: ", "sample ", "def a(", "assert ", "example\n"],
)
def test_the_longest_problems_are_read_too(piece: str) -> None:
    """Each is what a careless pattern would go over again and again."""
    assert stated_tests(f"Example: Input: n = 1 Output: 2\n{piece * 500_000}") == []
