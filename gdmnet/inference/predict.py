"""Files to files: every case of a folder through a translator, whatever becomes of the others."""

from __future__ import annotations

import shlex
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import SimpleITK as sitk  # noqa: N813
from tqdm import tqdm

from gdmnet import __version__, codec
from gdmnet.data.case import CaseFiles
from gdmnet.errors import DatasetError, OutputError
from gdmnet.inference.input_check import describe_check
from gdmnet.inference.inputs import find_cases, output_name
from gdmnet.inference.job import Job, Ready, finish, read
from gdmnet.inference.record import Predictions, read_records, report_name, require_same_model
from gdmnet.inference.translator import Translator
from gdmnet.models.device import versions


@dataclass(frozen=True)
class Outcome:
    """Which cases of this run were predicted, were there already, or failed."""

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
    n_threads: int = 1,
    n_parts: int = 1,
    part_id: int = 0,
    uncertainty: bool = False,
) -> Outcome:
    """Translate all cases of a folder and write down what was done in predictions.json.

    Predictions that are there already are kept, unless asked to overwrite. A case that fails is
    logged and noted, and the others go on.

    Args:
        translator: from `load_model`.
        inputs: see `find_cases`; or what it gave.
        output: folder of the predictions, CASE<ending> in the inputs' format.
        overwrite: predict anew what is there.
        n_threads: read and prepare so many cases ahead.
        n_parts: processes that share the cases, for example one a GPU.
        part_id: which of the parts this is, from 0.
        uncertainty: write maps of standard deviations to output/uncertainty, too.

    Raises:
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
    jobs = [
        Job(case, output / output_name(case, translator.plan), uncertainty)
        for case in found[part_id::n_parts]
    ]
    records = _claim(output, jobs, translator, overwrite=overwrite)
    earlier = {name: result for r in records.values() for name, result in r.cases.items()}
    jobs = [replace(job, before=earlier.get(job.files.identifier)) for job in jobs]
    report = output / report_name(part_id, n_parts)
    own = records.get(report.name)
    record = Predictions(
        Predictions.SCHEMA,
        __version__,
        translator.card,
        {**versions(), "SimpleITK": sitk.Version.VersionString()},
        {} if own is None else own.cases,
        None if translator.training is None else describe_check(translator.training),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=shlex.join(sys.argv),
    )
    return _predict(translator, jobs, record, report, n_threads)


def _predict(
    translator: Translator, jobs: Sequence[Job], record: Predictions, report: Path, n_threads: int
) -> Outcome:
    codec.save(record, report)
    names: dict[str, list[str]] = {"predicted": [], "skipped": [], "failed": []}

    def read_one(job: Job) -> Ready:
        return read(job, translator)

    with tqdm(total=len(jobs), desc="cases", disable=None) as bar:
        for job, ready in _ahead(read_one, jobs, n_threads):
            name = job.files.identifier
            fate, result = finish(translator, job, ready)
            names[fate].append(name)
            record = replace(record, cases={**record.cases, name: result})
            codec.save(record, report)
            bar.update()
    return Outcome(
        tuple(names["predicted"]), tuple(names["skipped"]), tuple(names["failed"]), report
    )


def _ahead(
    function: Callable[[Job], Ready], jobs: Sequence[Job], n_threads: int
) -> Iterator[tuple[Job, Future[Ready]]]:
    """Each job with its future, in order; at most `n_threads` are ready or in work ahead of it."""
    pool = ThreadPoolExecutor(n_threads)
    waiting: deque[tuple[Job, Future[Ready]]] = deque()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(function, job)))
            if len(waiting) > n_threads:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _claim(
    output: Path, jobs: Sequence[Job], translator: Translator, *, overwrite: bool
) -> dict[str, Predictions]:
    """The records of earlier runs; none if they are to be overwritten: then outputs go first."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for job in jobs:
                job.output.unlink(missing_ok=True)
                job.spread_output.unlink(missing_ok=True)
            return {}
    except OSError as problem:
        raise OutputError(
            f"{output}: cannot be written ({problem.strerror}); give another folder by -o"
        ) from None
    records = read_records(output)
    require_same_model(output, records, translator.card)
    return records
