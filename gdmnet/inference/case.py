"""One case of a folder: read ahead, predicted, written, and what the record says of it."""

from __future__ import annotations

import logging
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gdmnet.data.case import Case, CaseFiles, Volume
from gdmnet.data.case_files import read_errors
from gdmnet.data.dicom import read_sources, series_sha256
from gdmnet.data.volume import write_volume
from gdmnet.errors import DatasetError, GdmnetError, OutputError, is_out_of_memory
from gdmnet.files import file_sha256
from gdmnet.inference.dicom import SUFFIX
from gdmnet.inference.input_check import Finding, input_warnings
from gdmnet.inference.record import OUTDATED, CaseResult, UncertaintyMap
from gdmnet.inference.translator import Translator
from gdmnet.inference.windows import Estimate, Spread
from gdmnet.metrics.conventions import GDMNET
from gdmnet.metrics.evaluation import find_mask
from gdmnet.models.expected_error import COVERAGE

_log = logging.getLogger(__name__)

UNCERTAINTY = "uncertainty"
MIRRORED = "overlapping windows and their mirrored copies"


@dataclass(frozen=True)
class CasePrediction:
    """A case to predict, and what an earlier run wrote about it."""

    files: CaseFiles
    output: Path  # file of its prediction
    uncertainty: bool = False  # whether a map is asked for
    before: CaseResult | None = None

    @property
    def map_output(self) -> Path:
        """File of the uncertainty map."""
        return self.output.parent / UNCERTAINTY / self.output.name

    @property
    def series_output(self) -> Path:
        """Folder of its CT series."""
        return self.output.parent / f"{self.files.identifier}{SUFFIX}"

    @property
    def is_outdated(self) -> bool:
        """True if the file that is there shall be replaced."""
        return self.before is not None and self.before.status == OUTDATED

    @property
    def is_done(self) -> bool:
        """True if all that is asked for is there."""
        if self.is_outdated or not self.output.exists():
            return False
        is_noted = self.before is None or self.before.uncertainty is not None
        return not self.uncertainty or (self.map_output.exists() and is_noted)


@dataclass(frozen=True)
class ReadCase:
    """A case read ahead, and what the network then made of it."""

    case: Case | None  # prepared; None where its prediction is there already
    inputs: dict[str, str]  # file name -> SHA-256
    findings: tuple[Finding, ...] | None = None  # how it is unlike the training data, if known
    estimate: Estimate | None = None  # with it the case has no sources any more
    seconds: float = 0.0  # that the network took


@np.errstate(over="ignore", invalid="ignore")  # what is not finite in the end is refused
def read_case(translator: Translator, job: CasePrediction) -> ReadCase:
    """Read, prepare and check a case, unless it is done.

    Raises:
        DatasetError: a file cannot be read or does not fit, or the prediction that is there was
            made from other files.
    """
    measured = () if translator.finishing is None else translator.finishing.files(job.files)
    state, inputs = _states(job.files, measured), _digests(job.files, measured)
    known = {} if job.before is None or job.is_outdated else job.before.inputs
    if job.output.exists() and not known.items() <= inputs.items():
        raise DatasetError(
            f"{job.output}: was predicted from other files of these names; move it away or"
            " --overwrite"
        )
    if job.is_done:
        return ReadCase(None, inputs)
    volume = read_sources(job.files)
    if _states(job.files, measured) != state:
        raise DatasetError(
            f"case {job.files.identifier}: its files changed while they were read; predict it again"
            " once they are written"
        )
    case, findings = translator.prepare(job.files.identifier, volume)
    return ReadCase(case, inputs, findings)


@read_errors()
def _states(case: CaseFiles, measured: Sequence[Path]) -> list[tuple[int, ...]]:
    """What changes with any file that a case is made from: its number, size and times."""
    slices = (path for series in case.series for path in series.files)
    paths = (*case.sources, *slices, *measured)
    stats = [path.stat() for path in paths]
    return [(s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats]


@read_errors()
def _digests(case: CaseFiles, measured: Sequence[Path]) -> dict[str, str]:
    """Name -> SHA-256 of each file; a series is called as the file of its channel would be."""
    found = {path.name: file_sha256(path) for path in (*case.sources, *measured)}
    series = enumerate(case.series)
    return found | {f"{case.identifier}_{i:04d}": series_sha256(own) for i, own in series}


@np.errstate(over="ignore", invalid="ignore")
def predict_case(
    translator: Translator, job: CasePrediction, ahead: Future[ReadCase]
) -> ReadCase | Exception:
    """The network's part of a case; what goes wrong comes back and becomes its result."""
    try:
        read = ahead.result()
        if read.case is None:
            return read
        begin = time.perf_counter()
        spread: Spread = "opinions" if translator.expected is None else "mirrored"
        estimate = translator.predict(read.case, spread=spread if job.uncertainty else None)
        case = replace(read.case, source=read.case.source[:, :0].copy())
        seconds = time.perf_counter() - begin
        return replace(read, case=case, estimate=estimate, seconds=seconds)
    except Exception as problem:  # noqa: BLE001 (no odd file may end the other cases)
        return problem


@np.errstate(over="ignore", invalid="ignore")
def write_case(
    translator: Translator, job: CasePrediction, read: ReadCase | Exception
) -> tuple[str, CaseResult]:
    """Restore and write one case: "predicted", "skipped" or "failed", and what the record says.

    Raises:
        OutputError: nothing can be written, which concerns all cases.
    """
    try:
        if isinstance(read, Exception):
            raise read
        if read.case is None or read.estimate is None:
            return "skipped", _kept(job, read.inputs)
        return "predicted", _written(translator, job, read, read.case, read.estimate)
    except OutputError:
        raise
    except Exception as problem:  # noqa: BLE001 (no odd file may end the other cases)
        failed = _failed(job, problem)
    _log.error("case %s failed: %s", job.files.identifier, failed.error)
    return "failed", failed


def _failed(job: CasePrediction, problem: Exception) -> CaseResult:
    error, trace = str(problem).removeprefix(f"case {job.files.identifier}: "), None
    if is_out_of_memory(problem):
        error = "not enough memory for this case; use --device cpu, a smaller -np or more memory"
    elif not isinstance(problem, GdmnetError):
        first = error.strip().split("\n")[0]
        error = f"{type(problem).__name__}: {first} (not foreseen; the record has its traceback)"
        trace = "".join(traceback.format_exception(problem))
    if job.before is None or not job.output.exists():
        return CaseResult("failed", job.output.name, {}, error=error, traceback=trace)
    # What is there stays, and so does what it was made from.
    status = OUTDATED if job.is_outdated else "failed"
    return replace(job.before, status=status, error=error, traceback=trace)


def _kept(job: CasePrediction, inputs: dict[str, str]) -> CaseResult:
    known = {} if job.before is None else job.before.inputs
    if job.before is not None and known and known.items() <= inputs.items():
        return replace(job.before, status="done", error=None, traceback=None)
    unknown = "the prediction was there already and no record says what made it"
    return CaseResult("done", job.output.name, inputs, warnings=(unknown,))


def _written(
    translator: Translator, job: CasePrediction, read: ReadCase, case: Case, estimate: Estimate
) -> CaseResult:
    begin = time.perf_counter()
    volume = translator.restore(estimate, case)
    if translator.finishing is not None:
        volume = translator.finishing.apply(job.files, volume)
    uncertainty = None
    if estimate.std is not None:  # before the prediction: what is there is taken to be finished
        uncertainty = _write_map(translator, job, case, estimate, volume)
    shutil.rmtree(job.series_output, ignore_errors=True)  # of the prediction that was there before
    write_volume(job.output, volume, integer=translator.plan.integer_output)
    if uncertainty is None:
        job.map_output.unlink(missing_ok=True)  # of that, too
    seconds = round(read.seconds + time.perf_counter() - begin, 3)
    noted = input_warnings(case, read.findings, translator.configuration)
    warnings = *noted, *_uncertainty_warnings(uncertainty)
    for text in warnings:
        _log.warning("case %s: %s", job.files.identifier, text)
    done = "done", job.output.name, read.inputs, seconds, case.record.mask_rule, warnings
    return CaseResult(*done, input_check=read.findings, uncertainty=uncertainty)


def _write_map(
    translator: Translator, job: CasePrediction, case: Case, estimate: Estimate, volume: Volume
) -> UncertaintyMap:
    assert estimate.std is not None
    inside, expected = estimate.std[0][case.body != 0], translator.expected
    found = UncertaintyMap(
        output=f"{UNCERTAINTY}/{job.map_output.name}",
        sources=translator.spread_sources(),
        mean=float(inside.mean(dtype=np.float64)) * translator.configuration.target.scale,
        single_opinion=float((inside == 0).mean()),
    )
    if expected is None:
        write_volume(job.map_output, translator.restore_spread(estimate.std, case))
        return found
    difficulty, body = translator.difficulty(estimate, case), find_mask(None, volume, GDMNET)[0] > 0
    voxels = volume.array[0][body], difficulty.array[0][body]
    widths = np.zeros_like(volume.array)
    widths[0][body] = expected.half_width(*voxels)
    write_volume(job.map_output, replace(difficulty, array=widths))
    return replace(
        found,
        sources=MIRRORED,
        mean=float(widths[0][body].mean(dtype=np.float64)),
        coverage=COVERAGE,
        expected_mae=expected.expected_mae(*voxels),
        validation_mae=(expected.mae[0], expected.mae[1]),
    )


def _uncertainty_warnings(uncertainty: UncertaintyMap | None) -> Iterator[str]:
    if uncertainty is not None and uncertainty.expected_mae is not None:
        low, high = uncertainty.validation_mae or (0.0, np.inf)
        if not low <= uncertainty.expected_mae <= high:
            yield (
                f"expected MAE {uncertainty.expected_mae:.4g}, outside of the validation cases'"
                f" {low:.4g} to {high:.4g}"
            )
    elif uncertainty is not None and uncertainty.single_opinion == 1:
        yield "the uncertainty map is empty: one fold, one window; use more folds or --tta"
