"""Z3: have the question put to a solver, and the solver's answer explained.

Ye, Chen, Dillig, Durrett: SatLM, arXiv:2305.09656; Pan, Albalak, Wang, Wang: Logic-LM,
arXiv:2305.12295. A model is better at saying what is asked than at working it out.

1. Formalise: a Python program that states the problem for Z3 or SymPy and prints what they find.
2. Run the program, apart from the service (`proxy.sandbox`).
3. Repair: where it fails or prints nothing, ask for a better one, with what went wrong; a few
   times at most. The direct answer is asked for alongside, at half of the time at the latest; with
   ``direct`` it is from the start.
4. Explain: answer from what was printed. It streams.

A request that is no matter for a solver gets the direct answer, as does one whose program never
runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from proxy.chat import Chat, Reply
from proxy.llm import LLM, Need, Range, Shape, UpstreamError, approach


@approach(
    "z3",
    paper="arXiv:2305.09656",
    # A program that is late has the direct answer asked for, too.
    shape=lambda o: Shape(calls=(2, 3 + o.repairs), rounds=(1 if o.direct else 2, 2 + o.repairs)),
    use="Puzzles, schedules, equations: what can be stated exactly and is hard to search by hand.",
    roles=lambda _: ("proposer", "helper", "aggregator"),
    acts=True,
)
async def z3(
    chat: Chat,
    llm: LLM,
    *,
    repairs: Annotated[int, Range(0, 3), "better programs to ask for where one fails"] = 3,
    seconds: Annotated[float, Range(1.0, 120.0), "a program may run"] = 30.0,
    direct: Annotated[bool, "ask for the direct answer before a program has failed"] = False,
) -> Reply:
    """Put the question to Z3 or SymPy in a program, run it, and explain what it printed."""
    answer: Reply | None = None
    solved: _Solved | None = None

    needed = llm.need()
    if direct:
        needed.arise()

    async def directly() -> Reply:
        await needed.arisen()
        return await llm.answer(chat.messages)

    async def formally() -> _Solved | None:
        return await _solved(chat, llm, repairs, seconds, needed)

    async with llm.fan((formally(), directly())) as landed:
        async for result in landed:
            if isinstance(result, Reply):
                answer = result
                llm.keep(answer)
                continue
            solved = result
            # A direct answer that nobody has asked for yet is one that streams.
            if solved is not None or not needed:
                break
    if solved is None:
        return answer if answer is not None else await llm.final(chat.messages)
    llm.decide("check", [(solved.output, None)], 0, "a program has found it")
    if answer is None:
        # What was printed is better than nothing, should nobody be there to explain it.
        llm.keep(Reply.of(solved.output))
    text = _EXPLAIN.format(program=solved.program, output=solved.output)
    return await llm.role("aggregator").final(chat.followed_by(text))


@dataclass(frozen=True, slots=True)
class _Solved:
    program: str
    output: str


async def _solved(
    chat: Chat, llm: LLM, repairs: int, seconds: float, needed: Need
) -> _Solved | None:
    """A program that printed something, and what; None where there is none."""
    instruction = _FORMALISE.format(libraries=_listed(llm.sandbox.libraries), seconds=seconds)
    text = instruction
    for attempt in range(repairs + 1):
        # Python starts while the program is being written.
        async with llm.sandbox.ready(seconds) as run:
            try:
                said = await llm.ask(chat.followed_by(text), temperature=0)
            except UpstreamError:
                return None
            blocks = _PROGRAM.findall(said.rendered)
            if not blocks:
                return None
            program = blocks[-1].strip()
            llm.note("running a program")
            ran = await run(program)
        if ran.error is None and ran.output:
            return _Solved(program, ran.output)
        llm.note(f"program {attempt + 1} failed")
        if attempt < repairs:
            needed.arise()
        problem = ran.error or "It printed nothing."
        text = f"{instruction}\n\n{_REPAIR.format(program=program, problem=problem)}"
    return None


def _listed(libraries: Sequence[str]) -> str:
    return ", ".join([*libraries, "and the standard library"])


_PROGRAM = re.compile(r"```(?:python3?|py)?[ \t]*\r?\n(.*?)```", re.DOTALL | re.IGNORECASE)

_FORMALISE = """\
Do not answer the message above. Decide whether it asks for something that a program can find out \
exactly: by satisfying constraints, by algebra, by counting, or by searching all cases.

If so, write one Python program that does it, in a single fenced block marked python. The program \
states every condition of the message, with a comment that quotes it; it assumes nothing else. It \
can import {libraries}, and has no input, no files, no network and {seconds:g} seconds. It \
prints the result with a word on what it is, and whether that is the only one where this matters; \
where the conditions contradict each other it prints that.

If not, say so in one sentence and write no block. Do not provide the final answer."""

_REPAIR = """\
This program was written for that:

```python
{program}
```

It failed:

<problem>
{problem}
</problem>

Find the cause and write the whole program again, in one fenced block marked python."""

_EXPLAIN = """\
A program was written for the message above, and run:

```python
{program}
```

It printed this, a candidate for the answer:

<candidate>
{output}
</candidate>

Answer the message from this. Check first that the program states what the message says; where it \
does not, trust your own reasoning. Explain the result in the language of the message, without \
mentioning the program unless the message asks for one."""
