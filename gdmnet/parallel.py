"""Cases in worker processes, without ever hanging; progress bars, and the log above them."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from tqdm import tqdm

from gdmnet.errors import GdmnetError
from gdmnet.table import first_names

A = TypeVar("A")
R = TypeVar("R")

_LOOK_SECONDS = 2.0


class WorkerDiedError(GdmnetError):
    """A worker process was killed from outside, most often for lack of memory."""


class LogAboveBars(logging.StreamHandler):
    """Writes lines above the progress bars of its stream, which stay whole."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; bars are drawn anew below it."""
        with tqdm.external_write_mode(self.stream):
            super().emit(record)


def log_to_stderr(form: str = "%(message)s") -> None:
    """Show what gdmnet logs, and not what libraries tell of themselves."""
    logging.basicConfig(format=form, handlers=[LogAboveBars(sys.stderr)])
    logging.getLogger("gdmnet").setLevel(logging.INFO)


def progress_bar(
    items: Iterable[A] | None,
    title: str,
    *,
    total: int | None = None,
    shown: bool = True,
    delay: float = 0.0,
) -> tqdm[A]:
    """A bar with "3/200" and the time left on a terminal; nothing where stderr is a file.

    Without items it counts by `update()`, up to `total`; it is drawn after `delay` seconds.
    """
    disable = None if shown else True
    return tqdm(items, title, total, disable=disable, leave=False, delay=delay)


def _identifier(item: object) -> str:
    return str(getattr(item, "identifier", item))


def map_cases(
    function: Callable[[A], R],
    items: Sequence[A],
    *,
    n_processes: int,
    name: Callable[[A], str] = _identifier,
    title: str = "",
) -> list[R]:
    """`[function(item) for item in items]`, in `n_processes` processes, with a progress bar.

    The function must be picklable, since spawned processes import it; one process is this one.
    `name` is how an item is called in an error: by its identifier, if it has one.

    Raises:
        WorkerDiedError: a worker process died; the cases in work are named.
        Exception: the first exception of the function, with a note that names its case.
    """
    with progress_bar(None, title, total=len(items)) as bar:
        if n_processes <= 1 or len(items) <= 1:
            return [_call(function, item, name, bar) for item in items]
        return _map_in_pool(function, items, min(n_processes, len(items)), name, bar)


def _call(function: Callable[[A], R], item: A, name: Callable[[A], str], bar: tqdm) -> R:
    with _naming(name(item)):
        result = function(item)
    bar.update()
    return result


def _map_in_pool(
    function: Callable[[A], R],
    items: Sequence[A],
    n_processes: int,
    name: Callable[[A], str],
    bar: tqdm,
) -> list[R]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n_processes, mp_context=context, initializer=_begin_worker)
    futures: dict[Future[R], int] = {}
    try:
        futures = {pool.submit(function, item): i for i, item in enumerate(items)}
        for future in as_completed(futures):
            with _naming(name(items[futures[future]])):
                future.result()
            bar.update()
        return [future.result() for future in futures]
    except BrokenProcessPool:
        unfinished = [name(items[i]) for future, i in futures.items() if not _is_finished(future)]
        raise WorkerDiedError(
            f"a worker process died while these cases were open: {first_names(unfinished, 5)};"
            " most often memory ran out: use a smaller -np"
        ) from None
    finally:
        _kill(pool)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """End this process with the one that began it, whatever ends that one.

    A killed parent sends nothing: its orphans would go on writing into the folders of a rerun.
    """
    threading.Thread(target=_wait_and_end, args=(os.getppid(),), daemon=True).start()


def _wait_and_end(parent: int) -> None:
    process = multiprocessing.parent_process()
    if process is not None:
        wait([process.sentinel])
    else:  # a launcher's child
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
    os._exit(1)


def _is_finished(future: Future) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


@contextlib.contextmanager
def _naming(case: str) -> Iterator[None]:
    """Name the case in any error that leaves the block."""
    try:
        yield
    except GdmnetError as error:
        if case not in str(error):
            error.args = (f"case {case}: {error}",)
        raise
    except Exception as error:  # whatever it is, it goes on with the case's name
        if hasattr(error, "add_note"):  # Python 3.11 and later
            error.add_note(f"case {case}")
        raise


def _kill(pool: ProcessPoolExecutor) -> None:
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
