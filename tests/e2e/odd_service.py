"""The real service with what no flag gives: other settings, other approaches.

python odd_service.py --port PORT --base-url URL [--with JSON] [--descriptors SOFT_LIMIT]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Iterator

from proxy.approach import Entry, Shape, approach, entry_of
from proxy.chat import Chat, Reply
from proxy.errors import ConfigError
from proxy.llm import LLM
from proxy.registry import Registry, discover
from proxy.server import serve
from proxy.settings import Settings


@approach("stuck", shape=lambda _: Shape(calls=0, rounds=0))
async def stuck(chat: Chat, llm: LLM) -> Reply:
    """Hold the event loop for ever, as a bug in an approach would."""
    time.sleep(600)
    return Reply.of("never")


@approach("keeps", shape=lambda _: Shape(calls=0, rounds=0))
async def keeps(chat: Chat, llm: LLM) -> Reply:
    """Keep an answer, then look for a better one for ever."""
    llm.keep(Reply.of("kept"))
    await asyncio.sleep(600)
    return Reply.of("never")


def entries() -> Iterator[Entry]:
    yield from discover()
    for function in (stuck, keeps):
        entry = entry_of(function)
        assert entry is not None
        yield entry


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--base-url")
    parser.add_argument("--with", dest="settings", type=json.loads, default={})
    parser.add_argument("--descriptors", type=int)
    arguments = parser.parse_args()
    if arguments.descriptors is not None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (arguments.descriptors, hard))
    given = {"base_url": arguments.base_url, "port": arguments.port, "model": "sim"}
    settings = Settings(**{**given, **arguments.settings})
    try:
        return serve(settings, registry=Registry(entries()))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
