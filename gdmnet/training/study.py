"""All folds of a configuration, one after the other or one a GPU, and what they say together."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch

from gdmnet import codec, folders
from gdmnet.cluster import rank_from_environment
from gdmnet.data.splits import read_splits
from gdmnet.errors import GdmnetError, TrainingError
from gdmnet.folders import Roots
from gdmnet.metrics.summary import Summary, summarise
from gdmnet.parallel import end_with_parent, log_to_stderr
from gdmnet.plan import Plan
from gdmnet.training.distributed import end_processes
from gdmnet.training.expected_error import update_table
from gdmnet.training.fold import train_fold
from gdmnet.training.settings import TrainingSettings

CROSS_VALIDATION_JSON = "cross_validation.json"
_log = logging.getLogger(__name__)


def train_study(
    dataset: str | int, roots: Roots, settings: TrainingSettings | None = None
) -> tuple[Path, Summary]:
    """Train and validate every fold of the planned configuration, and pool their cases.

    What is finished stays, what was begun goes on: after any kill the same call goes on.

    Returns:
        The model's folder, which gdm_predict takes, and the cross-validation over all cases, which
        is in its cross_validation.json, too.

    Raises:
        GdmnetError: as `train_fold`; --overwrite, which would begin anew after every kill.
    """
    settings = settings or TrainingSettings()
    if settings.overwrite:
        raise TrainingError(
            "--overwrite throws one fold away: name configuration and fold, or delete the model's"
            " folder to train all anew"
        )
    name = folders.resolve_dataset(dataset, roots.preprocessed)
    home = roots.preprocessed / name
    planned = codec.load(Plan, home / folders.PLAN_JSON).configurations
    configuration = next(iter(planned))
    folds = [str(number) for number in range(len(read_splits(home / folders.SPLITS_JSON)))]
    model = folders.model_folder(roots.results, name, settings.objective, configuration)
    devices = _free_devices(settings)
    where = f", one on each of {', '.join(devices)}" if len(devices) > 1 else ""
    _log.info("%s, %s: folds %s%s", name, configuration, ", ".join(folds), where)
    resumed = replace(settings, resume=True)
    if len(devices) > 1:
        _train_side_by_side(folds, devices, (name, configuration, roots, resumed))
        update_table(model, planned[configuration])  # two that end at once see one fold less
    else:
        for fold in folds:
            train_fold(name, configuration, fold, roots, resumed)
    summary = pooled([folders.fold_folder(model, fold) for fold in folds])
    codec.save(summary, model / CROSS_VALIDATION_JSON, private=True)
    return model, summary


def pooled(folds: Sequence[Path]) -> Summary:
    """The summaries of several folds as one; a PlanError if one is missing or damaged.

    Every case was judged by the fold that did not see it.
    """
    parts = [codec.load(Summary, fold / folders.SUMMARY_JSON) for fold in folds]
    masks = sorted({part.mask for part in parts})
    notes = sorted({part.note for part in parts if part.note is not None})
    return summarise(
        {case: values for part in parts for case, values in part.cases.items()},
        units=parts[0].units,
        mask="; ".join(masks),
        match_intensity=parts[0].match_intensity,
        note="; ".join([f"cross-validation of {len(parts)} folds", *notes]),
    )


def _free_devices(settings: TrainingSettings) -> list[str]:
    """Where folds can train side by side: every GPU, unless devices or a launcher were named."""
    alone = settings.n_devices is None and rank_from_environment() is None
    if alone and settings.device in ("auto", "cuda") and torch.cuda.is_available():
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [settings.device]


_Where = tuple[str, str, Roots, TrainingSettings]


def _train_side_by_side(folds: Sequence[str], devices: Sequence[str], where: _Where) -> None:
    """A process a fold, one at a time on each device; all are ended when one of them fails."""
    context = multiprocessing.get_context("spawn")
    waiting, free = list(folds), list(devices)
    running: dict[Any, tuple[str, str, BaseProcess, SimpleQueue]] = {}  # by their sentinels
    try:
        while waiting or running:
            while waiting and free:
                fold, device, answers = waiting.pop(0), free.pop(0), context.SimpleQueue()
                args = fold, device, where, answers
                process: BaseProcess = context.Process(target=_train_one, args=args)
                process.start()
                running[process.sentinel] = fold, device, process, answers
            for sentinel in wait(list(running)):
                fold, device, process, answers = running.pop(sentinel)
                process.join()
                if code := process.exitcode:
                    reason = f"its process ended with {code}" if answers.empty() else answers.get()
                    raise TrainingError(f"fold {fold}: {reason}; the same command goes on")
                free.append(device)
    finally:
        end_processes([process for _, _, process, _ in running.values()])


def _train_one(fold: str, device: str, where: _Where, answers: SimpleQueue) -> None:
    end_with_parent()
    log_to_stderr(f"fold {fold}: %(message)s")
    dataset, configuration, roots, settings = where
    try:
        train_fold(dataset, configuration, fold, roots, replace(settings, device=device))
    except GdmnetError as problem:
        answers.put(str(problem))
        sys.exit(2)
