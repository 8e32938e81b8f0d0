"""A folder of predictions before a judge."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.compare.judge import make_judge, read_encoder
from gdmnet.compare.judge_settings import JudgeSettings
from gdmnet.compare.subjects import SubjectFiles, Subjects
from gdmnet.compare.verdict import JudgeVerdict, give_verdict
from gdmnet.data.case_files import images_by_case
from gdmnet.errors import TrainingError
from gdmnet.inference.record import read_records
from gdmnet.metrics.pairs import EvaluationFolders, sound_pairs
from gdmnet.plan import Run
from gdmnet.training.job import weights_sha256

_log = logging.getLogger(__name__)


def judge_folder(
    where: EvaluationFolders,
    settings: JudgeSettings,
    train_on: Path | None = None,
    *,
    cases: Collection[str],
    match: bool,
) -> JudgeVerdict:
    """Judge predictions against the real images of their names.

    Args:
        where: predictions, references and perhaps masks.
        settings: of the judge.
        train_on: folder of real images that the judge learns from; those that are no references
            give the floor. None takes the references.
        cases: those that count.
        match: give each prediction its reference's mean and standard deviation first.

    Raises:
        DatasetError: a folder is missing, or an image cannot be read.
        CheckpointError: the encoder's file cannot be used.
    """
    pairs, _ = sound_pairs(where, keep_going=True)
    subjects = [
        SubjectFiles(pair.identifier, pair.reference, pair.prediction, pair.mask)
        for pair in pairs
        if pair.identifier in cases
    ]
    images = {} if train_on is None else images_by_case(train_on)
    reals = [SubjectFiles(name, path) for name, path in images.items()]
    known = {pair.identifier for pair in pairs}
    others = [files for files in reals if files.identifier not in known]
    judge = make_judge(Subjects(reals or subjects), settings)
    return give_verdict(
        judge, Subjects(subjects), Subjects(others), match=match, seed=settings.seed
    )


def refuse_own_encoder(predictions: Path, settings: JudgeSettings) -> None:
    """Complain if the encoder of the settings drove the training of the predictions' model.

    Raises:
        TrainingError: it did.
        CheckpointError: its file cannot be used.
    """
    file = settings.encoder
    if file is None:
        return
    digest = weights_sha256(read_encoder(file))
    models = {Path(record.model.folder): record for record in read_records(predictions).values()}
    found = False
    for model, record in models.items():
        for fold in record.model.checkpoints:
            path = folders.fold_folder(model, fold) / folders.RUN_JSON
            if not path.is_file():
                continue
            found = True
            if codec.load(Run, path).encoder_sha256 == digest:
                raise TrainingError(
                    f"{file}: this encoder drove the training of {model} (fold {fold}), which has"
                    " optimised its features: it would flatter. Leave --judge-encoder out, so that"
                    " a judge is trained, or give the encoder of another training"
                )
    if not found:
        _log.warning(
            "warning: %s does not lead to its model's run.json: make sure that %s is not the"
            " encoder that drove its training",
            predictions,
            file,
        )
