"""A lock between processes, taken by several threads of each."""

from __future__ import annotations

import subprocess
import sys

#: Two processes that wait for each other in the kernel's eyes, where only two threads of them do.
CROSSED = """
import os, threading, time

from proxy.record_lock import record_lock

mine, theirs = os.memfd_create("mine"), os.memfd_create("theirs")

def waits(pid):
    return any(f" {pid} " in line and "->" in line for line in open("/proc/locks"))

def take_theirs():
    with record_lock(theirs):
        print("taken")

with record_lock(mine):
    child = os.fork()
    if not child:
        holds, may_end = threading.Event(), threading.Event()

        def hold():
            with record_lock(theirs):
                holds.set()
                may_end.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        holds.wait()
        with record_lock(mine):
            pass
        may_end.set()
        holder.join()
        os._exit(0)
    while not waits(child):
        time.sleep(0.001)
    other = threading.Thread(target=take_theirs)
    other.start()
    # As long as this process holds the other file, the kernel would call it a deadlock.
    time.sleep(0.05)
other.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

#: What it is for: without it, sums get lost.
COUNTED = """
import os
from proxy.record_lock import record_lock

number = os.memfd_create("number")
os.pwrite(number, (0).to_bytes(8, "little"), 0)

def count():
    for _ in range(2000):
        with record_lock(number):
            before = int.from_bytes(os.pread(number, 8, 0), "little")
            os.pwrite(number, (before + 1).to_bytes(8, "little"), 0)

children = []
for _ in range(3):
    child = os.fork()
    if not child:
        count()
        os._exit(0)
    children.append(child)
ends = [os.waitpid(child, 0)[1] for child in children]
print(ends, int.from_bytes(os.pread(number, 8, 0), "little"))
"""


def output(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    return done.stdout


def test_processes_keep_each_other_out() -> None:
    assert output(COUNTED) == "[0, 0, 0] 6000\n"


def test_threads_that_wait_crosswise_are_no_deadlock() -> None:
    assert output(CROSSED) == "taken\n0\n"
