"""Measuring what a piece of work costs, and doing it on request: standard library only.

`against_nnunet.py` starts one process for each tool, in the tool's own environment. Each reads
requests from its standard input, one JSON object a line, and answers each with one line.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Cost = dict[str, float]
"""`cpu` and `wall` in seconds; `peak`, resident MiB of the whole process."""
STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def cost_of(work: Callable[[], Any]) -> tuple[Any, Cost]:
    """What a function gives, and what it cost, all threads of this process counted."""
    if REFERENCES.exists():
        REFERENCES.write_text("5")  # the peak begins anew (man 5 proc)
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    seconds = time.process_time() - cpu, time.perf_counter() - wall
    return result, {"cpu": seconds[0], "wall": seconds[1], "peak": _peak()}


def cost_of_command(words: Sequence[str | Path], log: Path) -> Cost:
    """What a command cost, the processes that it started and waited for counted.

    Its peak is that of the largest of its processes.
    """
    begin = time.perf_counter()
    with log.open("a") as handle:
        process = subprocess.Popen(
            [str(word) for word in words], stdout=handle, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{words[0]} failed; see {log}")
    seconds = usage.ru_utime + usage.ru_stime, time.perf_counter() - begin
    return {"cpu": seconds[0], "wall": seconds[1], "peak": usage.ru_maxrss / 1024}


def serve(tasks: dict[str, Callable[..., Any]]) -> None:
    """Answer requests {"task": NAME, **arguments} until the input ends.

    What the tools print goes to the log that standard error is.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        answer = tasks[request.pop("task")](**request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Side:
    """One tool's process, which does what it is asked for."""

    def __init__(self, python: Path, script: str, home: Path) -> None:
        self.log = home / f"{script.removesuffix('.py')}.log"
        words = [str(python), str(Path(__file__).with_name(script)), str(home)]
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("a"),
            text=True,
        )

    def ask(self, task: str, **arguments: Any) -> Any:  # noqa: ANN401
        """The answer to one request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{task} {arguments} failed; see {self.log}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def _peak() -> float:
    if STATUS.exists():
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
