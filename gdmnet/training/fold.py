"""One fold from its description to its validation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.data.splits import split_for
from gdmnet.folders import Roots
from gdmnet.models.device import find_device
from gdmnet.plan import Plan
from gdmnet.training.distributed import require_devices
from gdmnet.training.job import Job, run_job
from gdmnet.training.start import Options, claim, describe, keep_plan, open_cases
from gdmnet.training.validate import validate_fold


def train_fold(
    dataset: str | int, configuration: str, fold: str, roots: Roots, options: Options | None = None
) -> Path:
    """Train and validate one fold.

    Args:
        dataset: 501 or "Dataset501_Name"; planned and prepared.
        configuration: a name of its plan.
        fold: "0", "1", ... or "all".
        roots: the folders.
        options: see `Options`.

    Returns:
        The folder of the fold: run.json, logs, checkpoints, and of a training that validates
        validation/ and summary.json.

    Raises:
        GdmnetError: an unknown dataset, configuration, fold or device; an existing training.
    """
    options = options or Options()
    job = describe_job(dataset, configuration, str(fold), roots, options)
    if options.n_devices > 1:
        require_devices(options.n_devices, find_device(options.device))
    described, resume = claim(job.folder, job.run, options)
    job = dataclasses.replace(job, run=described, resume=resume)
    _, validation = open_cases(job.cases, job.split)  # all there?
    model, folder = job.folder.parent, job.folder
    plan = codec.load(Plan, job.fingerprint.with_name(folders.PLAN_JSON))
    keep_plan(model, plan, job.fingerprint)
    if not (folder / folders.FINAL).is_file():
        run_job(job, n_processes=options.n_devices)
    if options.validates and not (folder / folders.SUMMARY_JSON).is_file():
        validate_fold(
            model,
            str(fold),
            validation,
            device=options.device,
            on_training=job.split.validates_on_training,
            fidelity_budget=options.fidelity_budget,
        )
    return folder


def describe_job(
    dataset: str | int, configuration: str, fold: str, roots: Roots, options: Options
) -> Job:
    """The training that is asked for, as if its folder were empty; nothing is written.

    Raises:
        GdmnetError: an unknown dataset, configuration, fold or device.
    """
    name = folders.resolve_dataset(dataset, roots.preprocessed)
    home = roots.preprocessed / name
    plan = codec.load(Plan, home / folders.PLAN_JSON)
    chosen = plan.configuration(configuration)
    split = split_for(fold, home / folders.SPLITS_JSON)
    device = find_device(options.device)
    model = folders.model_folder(roots.results, name, options.objective, configuration)
    encoders = options.encoder_root or roots.results
    return Job(
        run=describe(plan, chosen, fold, split, options, device),
        configuration=chosen,
        split=split,
        cases=folders.preprocessed_cases(roots.preprocessed, name, configuration),
        folder=folders.fold_folder(model, fold),
        fingerprint=home / folders.FINGERPRINT_JSON,
        encoder_home=folders.encoder_folder(encoders, name, configuration, fold),
        device=str(device),
        pretrained=options.pretrained,
        resume=False,
    )
