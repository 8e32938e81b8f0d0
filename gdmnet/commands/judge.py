"""gdm_judge: ask an encoder that no training has seen how real predictions look."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.commands.terminal import guarded, new_parser, positive_int
from gdmnet.compare.judge import (
    ITERATIONS,
    JUDGES,
    judge_with,
    make_judge,
    read_encoder,
)
from gdmnet.compare.subjects import SubjectFiles, Subjects
from gdmnet.compare.verdict import Verdict, give_verdict
from gdmnet.data.case_files import images_by_case
from gdmnet.errors import TrainingError
from gdmnet.inference.record import read_records
from gdmnet.metrics.frechet import Distance, Distances
from gdmnet.metrics.pairs import Folders, sound_pairs
from gdmnet.models.checkpoint import weights_sha256
from gdmnet.plan import Run

_EPILOG = """example:
  gdm_judge -p out/ -r targets/ --train-on gdmnet_raw/Dataset501_MRtoCT/targetsTr

The judge is trained by this command on real images, about a minute of one core. It is never the
encoder that drove a training: that one has been optimised and would flatter."""
JUDGE_JSON = "judge.json"
MATCHES = ("mean-std",)

_log = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    for option, name, text in (
        ("-p", "predictions", "predictions, one image a case"),
        ("-r", "references", "real images of the same names"),
        ("-m", "masks", "masks: where patches are taken (default: the body, computed)"),
        ("--train-on", "train_on", "other real images: the judge learns from them and they give"
         " the floor (default: the references)"),
    ):  # fmt: skip
        parser.add_argument(
            option, dest=name, type=Path, required=option in ("-p", "-r"), metavar="DIR", help=text
        )
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help="the verdict to write (default: judge.json among the predictions)",
    )
    parser.add_argument(
        "--judge",
        choices=JUDGES,
        default=JUDGES[0],
        help="trained without normalisation layers, with random weights, trained with group norm"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--encoder", type=Path, metavar="FILE", help="another training's encoder.pt as the judge"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the judge (default: %(default)s)")
    parser.add_argument(
        "--iterations",
        type=positive_int,
        default=ITERATIONS,
        metavar="N",
        help="steps of the judge's training (default: %(default)s)",
    )
    parser.add_argument(
        "--match-intensity",
        choices=MATCHES,
        help="give predictions the mean and spread of their references first (targets without a"
        " unit)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_judge."""
    args = build_parser().parse_args(argv)
    output = args.output or args.predictions / JUDGE_JSON

    def body() -> int:
        verdict = run(
            Folders(args.predictions, args.references, args.masks),
            train_on=args.train_on,
            output=output,
            kind=args.judge,
            encoder=args.encoder,
            iterations=args.iterations,
            seed=args.seed,
            match_intensity=args.match_intensity,
        )
        print(table(verdict))
        print(f"written: {output}")
        return 0

    return guarded(body)


def run(
    where: Folders,
    *,
    train_on: Path | None = None,
    output: Path | None = None,
    kind: str = JUDGES[0],
    encoder: Path | None = None,
    iterations: int = ITERATIONS,
    seed: int = 0,
    match_intensity: str | None = None,
) -> Verdict:
    """Judge a folder of predictions and write the verdict, if `output` is given.

    Args:
        where: predictions, references and perhaps masks.
        train_on: folder of real images; those that are no references give the floor.
        output: the JSON file to write.
        kind: of `JUDGES`; not looked at where an encoder is given.
        encoder: encoder.pt of another training.
        iterations: of the judge's training.
        seed: of the judge and of the places.
        match_intensity: "mean-std" or None.

    Raises:
        DatasetError: a folder or a partner is missing, or two grids differ.
        TrainingError: the encoder drove the training of the predictions' model.
        CheckpointError: the encoder's file cannot be used.
        OutputError: the verdict cannot be written.
    """
    pairs, _ = sound_pairs(where, keep_going=False)
    subjects = Subjects(
        {
            pair.identifier: SubjectFiles(pair.reference, pair.prediction, pair.mask)
            for pair in pairs
        }
    )
    found = {} if train_on is None else images_by_case(train_on)
    reals = Subjects({name: SubjectFiles(path) for name, path in found.items()})
    known = {pair.identifier for pair in pairs}
    others = Subjects(
        {name: SubjectFiles(path) for name, path in found.items() if name not in known}
    )
    if encoder is None:
        judge = make_judge(reals or subjects, kind=kind, iterations=iterations, seed=seed)
    else:
        given = read_encoder(encoder)
        _refuse_the_trainings_own(where.predictions, weights_sha256(given), encoder)
        judge = judge_with(given, reals or subjects, name=str(encoder))
    verdict = give_verdict(judge, subjects, others, match=match_intensity == "mean-std", seed=seed)
    if output is not None:
        codec.save(verdict, output)
    return verdict


def _refuse_the_trainings_own(predictions: Path, digest: str, file: Path) -> None:
    """Raise TrainingError where the predictions' model was trained with the encoder of `file`."""
    models = {Path(record.model.folder): record for record in read_records(predictions).values()}
    seen = False
    for model, record in models.items():
        for fold in record.model.checkpoints:
            path = folders.fold_folder(model, fold) / folders.RUN_JSON
            if not path.is_file():
                continue
            seen = True
            if codec.load(Run, path).encoder_sha256 == digest:
                raise TrainingError(
                    f"{file}: this encoder drove the training of {model} (fold {fold}), which has"
                    " optimised its features: it would flatter. Leave out --encoder, so that a"
                    " judge is trained, or give the encoder of another training"
                )
    if not seen:
        _log.warning(
            "warning: %s does not lead to its model's run.json: make sure that %s is not the"
            " encoder that drove its training",
            predictions,
            file,
        )


def table(verdict: Verdict) -> str:
    """The verdict as text."""
    rows = [("", "Frechet [95 %]", "kernel [95 %]")]
    for name, distances in (
        ("predictions", verdict.prediction),
        ("floor: other real images", verdict.floor),
        ("ceiling: real images, blurred", verdict.ceiling),
    ):
        rows.append((name, *_cells(distances)))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    matched = ", mean and spread matched" if verdict.matched else ""
    return "\n".join(
        [
            f"judge: {verdict.judge}",
            f"{verdict.n_patches} patches of {verdict.n_subjects} subjects in"
            f" {verdict.n_dimensions} dimensions{matched}",
            *(line.rstrip() for line in lines),
            f"floor from {verdict.floor_from}",
            verdict.note,
        ]
    )


def _cells(distances: Distances | None) -> tuple[str, str]:
    if distances is None:
        return "-", "-"
    return _cell(distances.frechet), _cell(distances.kernel)


def _cell(distance: Distance) -> str:
    if distance.low is None:
        return f"{distance.value:.3g}"
    return f"{distance.value:.3g} [{distance.low:.3g}, {distance.high:.3g}]"
