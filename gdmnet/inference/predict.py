"""Files to files: every case of a folder through a translator, whatever becomes of the others."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import SimpleITK as sitk  # noqa: N813
import torch
from tqdm import tqdm

from gdmnet import __version__, codec
from gdmnet.data.case import Case, CaseFiles
from gdmnet.data.raw import input_cases
from gdmnet.data.volume import FORMATS, write_volume
from gdmnet.errors import DatasetError, GdmnetError, OutputError
from gdmnet.inference.model import file_sha256
from gdmnet.inference.record import (
    CaseResult,
    Predictions,
    read_records,
    report_name,
    require_same_model,
)
from gdmnet.inference.translator import Translator
from gdmnet.plan import Configuration, Plan
from gdmnet.preprocessing import prepare
from gdmnet.training.device import versions

_log = logging.getLogger(__name__)

FAR_SPACING = 3.0  # times coarser or finer than what the model was trained at: worth a warning


@dataclass(frozen=True)
class Outcome:
    """Which cases of this run were predicted, were there already, or failed."""

    predicted: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]
    record: Path


@dataclass(frozen=True)
class _Job:
    """One case: its files, where its prediction goes, and what an earlier run wrote about it."""

    files: CaseFiles
    output: Path
    before: CaseResult | None


@dataclass(frozen=True)
class _Ready:
    """A case read ahead: `case` is None where its prediction is there already."""

    case: Case | None
    inputs: dict[str, str]


def find_cases(inputs: Path, plan: Plan) -> list[CaseFiles]:
    """The cases of a folder of CASE_0000<ending> files, or the one case of a single file.

    The plan's file ending is preferred; a folder in one of the other formats is taken as well.

    Raises:
        DatasetError: nothing there, or not what the model needs.
    """
    n_channels = len(plan.channel_names)
    if inputs.is_file():
        ending = _ending(inputs)
        if n_channels > 1:
            raise DatasetError(
                f"{inputs}: the model needs {n_channels} channels"
                f" ({', '.join(plan.channel_names)}); give a folder with one file a channel"
            )
        name = inputs.name.removesuffix(ending).removesuffix("_0000")
        return [CaseFiles(name, (inputs,))]
    return input_cases(inputs, n_channels, _folder_ending(inputs, plan.file_ending))


def predict_folder(
    translator: Translator,
    inputs: Path,
    output: Path,
    *,
    overwrite: bool = False,
    n_threads: int = 1,
    n_parts: int = 1,
    part_id: int = 0,
) -> Outcome:
    """Translate all cases of a folder and write down what was done in predictions.json.

    Predictions that are there already are kept, unless asked to overwrite. A case that fails is
    logged and noted, and the others go on.

    Args:
        translator: from `load_model`.
        inputs: see `find_cases`.
        output: folder of the predictions, CASE<ending> in the inputs' format.
        overwrite: predict anew what is there.
        n_threads: read and prepare so many cases ahead.
        n_parts: processes that share the cases, for example one a GPU.
        part_id: which of the parts this is, from 0.

    Raises:
        DatasetError: the inputs are not there or not what the model needs.
        OutputError: the folder cannot be written, or holds another model's predictions.
    """
    if not 0 <= part_id < n_parts:
        raise DatasetError(f"--part-id {part_id}: must be from 0 to {n_parts - 1} (--num-parts)")
    cases = find_cases(inputs, translator.plan)[part_id::n_parts]
    if output.resolve() == (inputs if inputs.is_dir() else inputs.parent).resolve():
        raise OutputError(f"{output}: holds the inputs; give another folder by -o")
    outputs = {
        case.identifier: output / f"{case.identifier}{_ending(case.sources[0])}" for case in cases
    }
    records = _claim(output, outputs.values(), translator, overwrite=overwrite)
    earlier = {name: result for r in records.values() for name, result in r.cases.items()}
    jobs = [_Job(c, outputs[c.identifier], earlier.get(c.identifier)) for c in cases]
    report = output / report_name(part_id, n_parts)
    own = records.get(report.name)
    record = Predictions(
        Predictions.SCHEMA,
        __version__,
        translator.card,
        {**versions(), "SimpleITK": sitk.Version.VersionString()},
        {} if own is None else own.cases,
    )
    return _predict(translator, jobs, record, report, n_threads)


def _predict(
    translator: Translator, jobs: Sequence[_Job], record: Predictions, report: Path, n_threads: int
) -> Outcome:
    codec.save(record, report)
    names: dict[str, list[str]] = {"predicted": [], "skipped": [], "failed": []}

    def read(job: _Job) -> _Ready:
        return _read(job, translator.configuration)

    with tqdm(total=len(jobs), desc="cases", disable=None) as bar:
        for job, ready in _ahead(read, jobs, n_threads):
            name = job.files.identifier
            fate, result = _finish(translator, job, ready)
            names[fate].append(name)
            record = replace(record, cases={**record.cases, name: result})
            codec.save(record, report)
            bar.update()
    return Outcome(
        tuple(names["predicted"]), tuple(names["skipped"]), tuple(names["failed"]), report
    )


def _ahead(
    function: Callable[[_Job], _Ready], jobs: Sequence[_Job], n_threads: int
) -> Iterator[tuple[_Job, Future[_Ready]]]:
    """Each job with its future, in order; at most `n_threads` are ready or in work ahead of it."""
    pool = ThreadPoolExecutor(n_threads)
    waiting: deque[tuple[_Job, Future[_Ready]]] = deque()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(function, job)))
            if len(waiting) > n_threads:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read(job: _Job, configuration: Configuration) -> _Ready:
    try:
        inputs = {path.name: file_sha256(path) for path in job.files.sources}
    except OSError as problem:
        raise DatasetError(f"{problem.filename}: cannot be read ({problem.strerror})") from None
    if not job.output.exists():
        return _Ready(prepare(job.files, configuration), inputs)
    if job.before is not None and job.before.inputs not in ({}, inputs):
        raise DatasetError(
            f"{job.output}: was predicted from other files of these names; move it away or"
            " --overwrite"
        )
    return _Ready(None, inputs)


def _finish(translator: Translator, job: _Job, ready: Future[_Ready]) -> tuple[str, CaseResult]:
    """Predict and write one case; what is wrong with it becomes its result.

    Raises:
        OutputError: nothing can be written, which concerns all cases.
    """
    try:
        item = ready.result()
        if item.case is None:
            return "skipped", _kept(job, item)
        return "predicted", _translate(translator, job, item.case, item.inputs)
    except OutputError:
        raise
    except GdmnetError as problem:
        error = str(problem)
    except (MemoryError, torch.OutOfMemoryError):
        error = "not enough memory for this case; use --device cpu, a smaller -np or more memory"
    _log.error("case %s failed: %s", job.files.identifier, error)
    return "failed", _failed(job, error)


def _failed(job: _Job, error: str) -> CaseResult:
    if job.before is not None and job.output.exists():  # keep what the file there was made from
        return replace(job.before, status="failed", error=error)
    return CaseResult("failed", job.output.name, {}, error=error)


def _kept(job: _Job, item: _Ready) -> CaseResult:
    if job.before is not None and job.before.inputs == item.inputs:
        return replace(job.before, status="done", error=None)
    warning = "the prediction was there already and no record says what made it"
    return CaseResult("done", job.output.name, item.inputs, warnings=(warning,))


def _translate(translator: Translator, job: _Job, case: Case, inputs: dict[str, str]) -> CaseResult:
    begin = time.perf_counter()
    volume = translator.translate_prepared(case)
    write_volume(job.output, volume, integer=translator.plan.integer_output)
    seconds = round(time.perf_counter() - begin, 3)
    warnings = tuple(_warnings(case, translator.configuration))
    for warning in warnings:
        _log.warning("case %s: %s", job.files.identifier, warning)
    return CaseResult("done", job.output.name, inputs, seconds, case.record.mask_rule, warnings)


def _warnings(case: Case, configuration: Configuration) -> Iterator[str]:
    if case.record.mask_rule == "whole volume":
        yield "no body was found, the whole volume was translated"
    spacing = case.record.geometry.spacing
    for axis, own, trained in zip("zyx", spacing, configuration.spacing, strict=True):
        if max(own / trained, trained / own) > FAR_SPACING:
            yield f"{own:g} mm along {axis}, but the model works at {trained:g} mm"


def _claim(
    output: Path, outputs: Iterable[Path], translator: Translator, *, overwrite: bool
) -> dict[str, Predictions]:
    """The records of earlier runs; none if they are to be overwritten: then outputs go first."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for path in outputs:
                path.unlink(missing_ok=True)
            return {}
    except OSError as problem:
        raise OutputError(
            f"{output}: cannot be written ({problem.strerror}); give another folder by -o"
        ) from None
    records = read_records(output)
    require_same_model(output, records, translator.card)
    return records


def _ending(path: Path) -> str:
    ending = next((ending for ending in FORMATS if path.name.endswith(ending)), None)
    if ending is None:
        raise DatasetError(f"{path}: unknown file ending; known are {', '.join(FORMATS)}")
    return ending


def _folder_ending(folder: Path, preferred: str) -> str:
    if not folder.is_dir():
        return preferred
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    there = [e for e in FORMATS if any(name.endswith(e) for name in names)]
    return there[0] if len(there) == 1 else preferred
