"""`make bench-peer`: OptiLLM 0.3.12 and we, under the same loads, before the same simulated model.

Both run as their operators run them, with default settings, and are measured in turns so that both
see the same machine. It asserts nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from math import sqrt
from statistics import median

from benchmarks.bench import machine
from benchmarks.figures import aligned, counted, ms
from benchmarks.load import Load, Measured, chat, measure
from benchmarks.plain_scores import PlainScores
from benchmarks.proc import Meanwhile, cpu_seconds, rss
from benchmarks.processes import NotStartedError, Proxy, Upstream
from optictl.client import ProxyClient
from optictl.simulator import Behaviour, SimulatorThread, gold
from optictl.simulator.questions import find_answer
from optictl.simulator.replies import same
from proxy.voting import exact_plurality
