"""Files to files: every case of a folder through a translator, whatever becomes of the others.

And a folder that others fill: each delivery is taken once it has been quiet for a while.
"""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

import SimpleITK as sitk  # noqa: N813

from gdmnet import __version__, codec, files
from gdmnet.data.case import CaseFiles
from gdmnet.data.case_files import read_errors
from gdmnet.data.dicom import case_name, frame_name
from gdmnet.errors import DatasetError, GdmnetError, OutputError
from gdmnet.inference.case import (
    UNCERTAINTY,
    CasePrediction,
    ReadCase,
    predict_case,
    read_case,
    write_case,
)
from gdmnet.inference.input_check import describe_check
from gdmnet.inference.inputs import find_cases, output_name
from gdmnet.inference.record import (
    OUTDATED,
    CaseResult,
    Predictions,
    SourceSeries,
    earlier_results,
    record_name,
)
from gdmnet.inference.translator import Translator
from gdmnet.parallel import progress_bar

A = TypeVar("A")
R = TypeVar("R")
State = frozenset[tuple[str, int, int]]
"""Names, sizes and times of all files of a delivery."""

QUIET_SECONDS = 30.0  # an archive sends a series slice by slice
LOOK_SECONDS = 5.0
_LEFT = "the file there is an earlier run's: --overwrite was stopped before it was replaced"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderResult:
    """Which cases of this run were predicted, were there already, or failed; and its record."""

    predicted: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]
    record: Path


def predict_folder(
    translator: Translator,
    inputs: Path | Sequence[CaseFiles],
    output: Path,
    *,
    overwrite: bool = False,
    uncertainty: bool = False,
    n_threads: int = 1,
    n_parts: int = 1,
    part_id: int = 0,
) -> FolderResult:
    """Translate all cases of a folder and write down what was done in predictions.json.

    Predictions that are there already are kept; asked to overwrite, each is replaced once the new
    one is whole. A case that fails is logged and noted, and the others go on.

    The inputs are as for `find_cases`, or what it gave; the output gets CASE<ending> in their
    format, and maps in uncertainty/ if these are asked for. `n_threads` cases are read and prepared
    ahead. Where processes share the cases this one does part `part_id`, from 0, of `n_parts`.

    Raises:
        BusyError: another process predicts the same part of this folder.
        CheckpointError: uncertainty is asked of a model with a sampler.
        DatasetError: the inputs are not there or not what the model needs.
        OutputError: the folder cannot be written, or holds another model's predictions.
    """
    if not 0 <= part_id < n_parts:
        raise DatasetError(f"--part-id {part_id}: must be from 0 to {n_parts - 1} (--num-parts)")
    if uncertainty:
        translator.require_spread()
    found = find_cases(inputs, translator.plan) if isinstance(inputs, Path) else inputs
    if output.resolve() in {path.parent.resolve() for case in found for path in case.sources}:
        raise OutputError(f"{output}: holds the inputs; give another folder by -o")
    path = output / record_name(part_id, n_parts)
    with files.lock(path):
        files.sweep(output / UNCERTAINTY)
        earlier = {} if overwrite else earlier_results(output, translator.card)
        jobs = []
        for case in found[part_id::n_parts]:
            place = output / output_name(case, translator.plan)
            if overwrite and place.exists():
                left = CaseResult(OUTDATED, place.name, {}, error=_LEFT)
                earlier[case.identifier] = path.name, left
            _, before = earlier.get(case.identifier, ("", None))
            jobs.append(CasePrediction(case, place, uncertainty, before))
        record = Predictions(
            Predictions.SCHEMA,
            __version__,
            translator.card,
            {**translator.network.versions(), "SimpleITK": sitk.Version.VersionString()},
            {case: before for case, (name, before) in earlier.items() if name == path.name},
            None if translator.training is None else describe_check(translator.training),
            # in UTC dates sort as text
            date=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            command=shlex.join(sys.argv),
        )
        return _predict(translator, jobs, record, path, n_threads)


def _predict(
    translator: Translator,
    jobs: Sequence[CasePrediction],
    record: Predictions,
    path: Path,
    n_threads: int,
) -> FolderResult:
    codec.save(record, path, private=True)
    fates: dict[str, list[str]] = {"predicted": [], "skipped": [], "failed": []}

    def write(item: tuple[CasePrediction, ReadCase | Exception]) -> str:
        nonlocal record
        job, predicted = item
        fate, result = write_case(translator, job, predicted)
        series = tuple(
            SourceSeries(str(own.folder), own.label, case_name(own), frame_name(own))
            for own in job.files.series
        )
        result = replace(result, series=series)
        record = replace(record, cases={**record.cases, job.files.identifier: result})
        codec.save(record, path, private=True)
        return fate

    # Cases are read ahead of the network and written behind it.
    ahead = _ahead(partial(read_case, translator), jobs, n_threads)
    ready = ((job, predict_case(translator, job, read)) for job, read in ahead)
    written = _ahead(write, ready, 1)
    with progress_bar(None, "cases", total=len(jobs)) as bar, closing(written):
        for (job, _), fate in written:
            fates[fate.result()].append(job.files.identifier)
            bar.update()
    predicted, skipped, failed = map(tuple, fates.values())
    return FolderResult(predicted, skipped, failed, path)


def _ahead(
    function: Callable[[A], R], items: Iterable[A], n_threads: int
) -> Generator[tuple[A, Future[R]], None, None]:
    """Each item with its future, in order; at most `n_threads` are ready or in work ahead of it."""
    pool = ThreadPoolExecutor(n_threads)
    waiting: deque[tuple[A, Future[R]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > n_threads:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)  # what is being written shall be whole


def watch(folder: Path, take: Callable[[Path], None]) -> NoReturn:
    """Hand over every delivery that has stopped changing, for ever.

    A delivery is a subfolder, with all below it, or the files of the folder itself, which may be
    empty. What `take` refuses is logged in one line, and tried again when the delivery has changed.

    Raises:
        DatasetError: the folder is not there any more.
    """
    taken: dict[Path, State] = {}
    changed: dict[Path, tuple[State, float]] = {}  # when each state was first seen, by our clock
    while True:
        for place, state in list(_deliveries(folder)):
            if taken.get(place) == state:
                continue
            last, since = changed.get(place, (None, 0.0))
            if last != state:
                changed[place] = state, time.monotonic()
            elif time.monotonic() - since >= QUIET_SECONDS:
                try:
                    take(place)
                except GdmnetError as problem:
                    _log.error("error: %s", problem)
                taken[place] = state
        time.sleep(LOOK_SECONDS)


def _deliveries(folder: Path) -> Iterator[tuple[Path, State]]:
    with read_errors():
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for place in (*sorted(path for path in entries if path.is_dir()), folder):
        try:
            paths = entries if place == folder else place.rglob("*")
            found = [(str(path), path.stat()) for path in paths if path.is_file()]
        except FileNotFoundError:  # it is being moved
            continue
        if found:
            yield place, frozenset((name, info.st_size, info.st_mtime_ns) for name, info in found)
