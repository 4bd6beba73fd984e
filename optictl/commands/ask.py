"""``optictl ask``: one question to the running proxy, its calls in view."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

import orjson
import typer

from optictl import completions
from optictl.console import data, emit_json, say, show, write
from optictl.errors import OptictlError, UsageError
from optictl.exit_status import Exit
from optictl.result import Result
from proxy.settings import DEFAULT_HOST, DEFAULT_PORT, Secret, read_key_file


def ask(
    model: Annotated[str, typer.Argument(help="A model, or APPROACH-MODEL: moa-gpt-4o-mini.")],
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The question; - reads it from stdin. Alone behind --approach, it goes to the "
            "proxy's own model."
        ),
    ] = None,
    approach: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="Approaches, or pipelines of them (re2&moa); several are compared.",
            autocompletion=completions.approaches,
        ),
    ] = "",
    url: Annotated[
        str, typer.Option(help="The proxy's address.")
    ] = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}",
    api_key_file: Annotated[
        str | None, typer.Option(help="File with the key that the proxy asks for.")
    ] = None,
    system: Annotated[str, typer.Option(help="A system message in front.")] = "",
    max_seconds: Annotated[
        float | None, typer.Option(min=0.01, help="Time to answer in; then the best so far.")
    ] = None,
    options: Annotated[
        str, typer.Option(metavar="JSON", help="Options of the approach, as an object.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The answer and no more.")] = False,
) -> None:
    """Ask the running proxy one question and watch its calls.

    The answer goes to stdout as it arrives; the calls, a waterfall of them in
    the end, and what it all cost go to stderr.

    Several approaches are asked at once: a table of what each answered and
    cost goes to stdout, the whole answers below it. The exit status is 1 where
    all of them failed.

    \b
    Examples:
      optictl ask gpt-4o-mini "What is 17 * 23?"
      optictl ask --approach "none,bon,re2&moa" gpt-4o-mini "Why is the sky blue?"
      optictl ask moa-gpt-4o-mini "Why is the sky blue?" --max-seconds 30
      optictl ask self_consistency-gpt-4o-mini - --options '{"samples": 7}' < question.txt
    """
    # Imported here: `optictl --help` needs no HTTP client.
    from optictl.client import ProxyClient, Said
    from optictl.live import LiveWaterfall, show_waterfall
    from optictl.transcript import Transcript, summary

    approaches = _approaches(approach)
    if prompt is None:
        if not approaches:
            raise UsageError("the prompt is missing: give it behind the model, in quotes")
        model, prompt = "", model
    body = _body(model, prompt, system, max_seconds, options)
    if len(approaches) == 1:
        body["optillm_approach"] = approaches[0]
    key = None if api_key_file is None else read_key_file(api_key_file, "--api-key-file")
    if len(approaches) > 1:
        raise typer.Exit(_compare(url, key, body, approaches, as_json=as_json, quiet=quiet))
    transcript, began = Transcript(), time.monotonic()
    try:
        with (
            ProxyClient(url, key) as proxy,
            closing(proxy.stream(body)) as events,
            LiveWaterfall(transcript, hidden=quiet) as live,
        ):
            for event in events:
                transcript.take(event)
                if isinstance(event, Said) and event.choice == 0 and not as_json:
                    live.stop()
                    write(event.text)
    except OptictlError:
        if transcript.text and not as_json:
            write("\n")
        if not quiet:
            show_waterfall(transcript)
        raise
    seconds = time.monotonic() - began
    if as_json:
        emit_json(Result("ask", {**transcript.as_json(), "seconds": round(seconds, 3)}))
    else:
        _end(transcript.texts)
    if not quiet:
        show_waterfall(transcript)
        say(summary(transcript.usage, transcript.optillm, seconds))


def _compare(
    url: str,
    key: Secret | None,
    body: Mapping[str, Any],
    approaches: Sequence[str],
    *,
    as_json: bool,
    quiet: bool,
) -> Exit:
    """Several approaches: a table and the answers, or a list of them; failed where all have."""
    from optictl.client import ProxyClient
    from optictl.comparison import compare, comparison

    with ProxyClient(url, key) as proxy:
        attempts = compare(proxy, body, approaches, None if quiet else say)
    failed = [each.error for each in attempts if each.error is not None]
    status = Exit.FAILED if len(failed) == len(attempts) else Exit.OK
    if as_json:
        errors = [{"code": error.code, "message": str(error)} for error in failed if status]
        emit_json(Result("ask", [each.as_json() for each in attempts], status, errors))
    else:
        show(comparison(attempts))
        for each in attempts:
            data(f"\n── {each.name} ──\n\n{each.text}")
    return status


def _approaches(text: str) -> list[str]:
    """``a, b&c`` as ``["a", "b&c"]``; raises `UsageError`."""
    names = ["".join(name.split()) for name in text.split(",")] if text else []
    if not all(names):
        raise UsageError(f"--approach {text}: a name is missing beside a comma")
    return names


def _body(
    model: str, prompt: str, system: str, max_seconds: float | None, options: str
) -> dict[str, Any]:
    """The request's members; raises `UsageError`."""
    if prompt == "-":
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise UsageError("the prompt is empty; give it as an argument, or - and pipe it in")
    messages = [{"role": "system", "content": system}] if system else []
    body: dict[str, Any] = {"messages": [*messages, {"role": "user", "content": prompt}]}
    if model:
        body["model"] = model
    if max_seconds is not None:
        body["optillm_budget"] = {"max_seconds": max_seconds}
    if options:
        body["optillm_options"] = _object(options)
    return body


def _object(text: str) -> dict[str, Any]:
    example = """write it as '{"samples": 7}'"""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"--options is no JSON ({error}); {example}") from error
    if not isinstance(value, dict):
        raise UsageError(f"--options must be a JSON object; {example}")
    return value


def _end(texts: Mapping[int, str]) -> None:
    """The rest of stdout: a newline, and the choices that did not stream along."""
    for position, (choice, text) in enumerate(texts.items()):
        if choice:
            data(f"\n{text}" if position else text)
        elif not text.endswith("\n"):
            write("\n")
