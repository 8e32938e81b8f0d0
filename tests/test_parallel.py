"""map_cases never hangs, names the case of an error and leaves no process behind."""

from __future__ import annotations

import io
import logging
import math
import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gdmnet import codec
from gdmnet.errors import PlanError
from gdmnet.parallel import LogAboveBars, WorkerDiedError, map_cases, progress_bar

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60  # seconds until a test calls it a hang

# Two workers note their process ids and then sleep for longer than any test.
SLEEPERS = """
import os, signal, sys, time
from pathlib import Path
from gdmnet.parallel import map_cases

def sleep(folder):
    Path(folder, f"{os.getpid()}.pid").touch()
    time.sleep(600)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it behind an "&"
    map_cases(sleep, [sys.argv[1]] * 4, n_processes=2)
"""


@pytest.mark.parametrize("n_processes", [1, 2])
def test_results_come_in_the_order_of_the_items(n_processes):
    items = [9.0, 4.0, 1.0, 0.25, 16.0]
    assert map_cases(math.sqrt, items, n_processes=n_processes) == [3.0, 2.0, 1.0, 0.5, 4.0]


def test_no_item_gives_no_result_and_no_process():
    assert map_cases(math.sqrt, [], n_processes=4) == []


def test_a_dead_worker_is_an_error_and_not_a_hang():
    with pytest.raises(WorkerDiedError, match=r"died while these cases were open: .*\b3\b.*-np"):
        map_cases(os._exit, [3, 4], n_processes=2)


def test_the_case_of_a_gdmnet_error_is_named(tmp_path):
    items = [tmp_path / "there.json", tmp_path / "missing.json"]
    items[0].write_text("1")
    for n_processes in (1, 2):
        with pytest.raises(PlanError, match=r"^case second: .*missing.json: file not found"):
            map_cases(
                codec.read_json,
                items,
                n_processes=n_processes,
                name=lambda path: {"there.json": "first", "missing.json": "second"}[path.name],
            )


def test_a_case_that_the_error_names_already_is_not_named_twice(tmp_path):
    with pytest.raises(PlanError) as caught:
        map_cases(codec.read_json, [tmp_path / "a.json"], n_processes=1)
    assert str(caught.value).count("a.json") == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
@pytest.mark.parametrize("n_processes", [1, 2])
def test_any_other_exception_stays_itself_and_carries_a_note(n_processes):
    with pytest.raises(TypeError) as caught:
        map_cases(operator.neg, [1, "word"], n_processes=n_processes)
    assert "case word" in caught.value.__notes__


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_parent_leaves_no_worker(tmp_path, request, signal_number):
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    try:
        _until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        parent.send_signal(signal_number)
        _, messages = parent.communicate(timeout=PATIENCE)
    finally:
        parent.kill()
        request.addfinalizer(lambda: _end_workers(tmp_path))
    assert parent.returncode != 0
    _until(lambda: not _running_workers(tmp_path))
    if signal_number == signal.SIGINT:
        assert b"KeyboardInterrupt" in messages


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_at_the_terminal_shows_one_traceback_only(tmp_path, request):
    # A terminal sends SIGINT to the whole process group, workers too.
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        os.killpg(parent.pid, signal.SIGINT)
        _, messages = parent.communicate(timeout=PATIENCE)
    finally:
        parent.kill()
        request.addfinalizer(lambda: _end_workers(tmp_path))
    assert messages.count(b"Traceback") == 1
    _until(lambda: not _running_workers(tmp_path))


def _until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.02)


def _running_workers(folder):
    workers = [int(path.stem) for path in folder.glob("*.pid")]
    return [worker for worker in workers if _is_running(worker)]


def _end_workers(folder):
    for worker in _running_workers(folder):
        os.kill(worker, signal.SIGKILL)


def _is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
        return (
            subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 0
        )
    return state != "Z"


class _Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [_Terminal, io.StringIO])
def test_lines_stand_above_the_bar_which_files_do_not_get(monkeypatch, stream):
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)
    handler = LogAboveBars(shown)
    for _ in progress_bar(range(3), "cases"):
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "a line", (), None))
    lines = [line.split("\r")[-1] for line in shown.getvalue().split("\n")]
    assert lines[:3] == ["a line"] * 3
    if stream is _Terminal:
        assert "cases:   0%|" in shown.getvalue()
        assert "| 0/3 [" in shown.getvalue()
    else:
        assert lines[3:] == [""]
