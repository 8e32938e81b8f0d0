"""One case of a folder: read ahead, translated, written, and what became of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gdmnet.data.case import Case, CaseFiles
from gdmnet.data.dicom import read_sources
from gdmnet.data.volume import write_volume
from gdmnet.errors import DatasetError, GdmnetError, OutputError
from gdmnet.inference.input_check import Finding, check_input, measure_input, warning
from gdmnet.inference.inputs import source_digests
from gdmnet.inference.record import CaseResult, Uncertainty
from gdmnet.inference.translator import Translator
from gdmnet.preprocessing import prepare_with_sources

_log = logging.getLogger(__name__)

UNCERTAINTY = "uncertainty"
FAR_SPACING = 3.0  # times coarser or finer than what the model was trained at: worth a warning


@dataclass(frozen=True)
class Job:
    """One case: its files, where its prediction goes, and what an earlier run wrote about it."""

    files: CaseFiles
    output: Path
    uncertainty: bool = False
    before: CaseResult | None = None

    @property
    def spread_output(self) -> Path:
        """Where the map of standard deviations goes."""
        return self.output.parent / UNCERTAINTY / self.output.name

    @property
    def is_done(self) -> bool:
        """True if all that is asked for is there."""
        return self.output.exists() and (not self.uncertainty or self.spread_output.exists())


@dataclass(frozen=True)
class Ready:
    """A case read ahead.

    Attributes:
        case: None where its prediction is there already.
        inputs: file name -> SHA-256.
        findings: how it is unlike the training data; None if that is not known.
    """

    case: Case | None
    inputs: dict[str, str]
    findings: tuple[Finding, ...] | None = None


def read(job: Job, translator: Translator) -> Ready:
    """Read, prepare and check a case, unless it is done.

    Raises:
        DatasetError: a file cannot be read or does not fit, or the prediction that is there was
            made from other files.
    """
    inputs = source_digests(job.files)
    if job.output.exists() and job.before is not None and job.before.inputs not in ({}, inputs):
        raise DatasetError(
            f"{job.output}: was predicted from other files of these names; move it away or"
            " --overwrite"
        )
    if job.is_done:
        return Ready(None, inputs)
    volume = read_sources(job.files)
    case, corrected = prepare_with_sources(job.files.identifier, volume, translator.configuration)
    if translator.training is None:
        return Ready(case, inputs)
    findings = check_input(measure_input(case, corrected), translator.training)
    return Ready(case, inputs, findings)


def finish(translator: Translator, job: Job, ready: Future[Ready]) -> tuple[str, CaseResult]:
    """Predict and write one case; what is wrong with it becomes its result.

    Returns:
        "predicted", "skipped" or "failed", and what the record says of it.

    Raises:
        OutputError: nothing can be written, which concerns all cases.
    """
    try:
        item = ready.result()
        if item.case is None:
            return "skipped", _kept(job, item)
        return "predicted", _translate(translator, job, item.case, item)
    except OutputError:
        raise
    except GdmnetError as problem:
        error = str(problem)
    except (MemoryError, torch.OutOfMemoryError):
        error = "not enough memory for this case; use --device cpu, a smaller -np or more memory"
    _log.error("case %s failed: %s", job.files.identifier, error)
    return "failed", _failed(job, error)


def _failed(job: Job, error: str) -> CaseResult:
    if job.before is not None and job.output.exists():  # keep what the file there was made from
        return replace(job.before, status="failed", error=error)
    return CaseResult("failed", job.output.name, {}, error=error)


def _kept(job: Job, item: Ready) -> CaseResult:
    if job.before is not None and job.before.inputs == item.inputs:
        return replace(job.before, status="done", error=None)
    told = "the prediction was there already and no record says what made it"
    return CaseResult("done", job.output.name, item.inputs, warnings=(told,))


def _translate(translator: Translator, job: Job, case: Case, item: Ready) -> CaseResult:
    begin = time.perf_counter()
    estimate = translator.predict(case, spread=job.uncertainty)
    uncertainty = None
    if estimate.std is not None:  # before the prediction: what is there is taken to be finished
        uncertainty = _write_spread(translator, job, case, estimate.std)
    volume = translator.restore(estimate, case)
    if translator.finishing is not None:
        volume = translator.finishing(job.files, volume)
    write_volume(job.output, volume, integer=translator.plan.integer_output)
    seconds = round(time.perf_counter() - begin, 3)
    warnings = tuple(_warnings(translator, case, item.findings, uncertainty))
    for text in warnings:
        _log.warning("case %s: %s", job.files.identifier, text)
    return CaseResult(
        "done",
        job.output.name,
        item.inputs,
        seconds,
        case.record.mask_rule,
        warnings,
        input_check=item.findings,
        uncertainty=uncertainty,
    )


def _write_spread(translator: Translator, job: Job, case: Case, std: NDArray) -> Uncertainty:
    inside = std[0][case.body != 0]
    try:
        job.spread_output.parent.mkdir(exist_ok=True)
    except OSError as problem:
        raise OutputError(
            f"{job.spread_output.parent}: cannot be written ({problem.strerror}); give another"
            " folder by -o"
        ) from None
    write_volume(job.spread_output, translator.restore_spread(std, case))
    return Uncertainty(
        output=f"{UNCERTAINTY}/{job.spread_output.name}",
        sources=translator.spread_sources(),
        mean=float(inside.mean(dtype=np.float64)) * translator.configuration.target.scale,
        single_opinion=float((inside == 0).mean()),
    )


def _warnings(
    translator: Translator,
    case: Case,
    findings: tuple[Finding, ...] | None,
    uncertainty: Uncertainty | None,
) -> Iterator[str]:
    if case.record.mask_rule == "whole volume":
        yield "no body was found, the whole volume was translated"
    if findings:
        yield warning(findings)
    if findings is None:
        spacing = case.record.geometry.spacing
        for axis, own, at in zip("zyx", spacing, translator.configuration.spacing, strict=True):
            if max(own / at, at / own) > FAR_SPACING:
                yield f"{own:g} mm along {axis}, but the model works at {at:g} mm"
    if uncertainty is not None and uncertainty.single_opinion == 1:
        yield "the uncertainty map is empty: one fold, one window; use more folds or --tta"
