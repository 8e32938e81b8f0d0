"""gdm_check: is a dataset of pairs sound? Measures, reports, and changes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gdmnet import codec
from gdmnet.commands.terminal import add_path, command, encoder_settings, new_parser, roots_from
from gdmnet.errors import SettingError
from gdmnet.folders import Roots, resolve_dataset
from gdmnet.table import text_table
from gdmnet.training.settings import EncoderSettings, TrainingSettings

if TYPE_CHECKING:
    from gdmnet.data.case import CaseFiles
    from gdmnet.data.raw import Description
    from gdmnet.datasets.soundness import CaseFacts, DatasetCheck
    from gdmnet.encoders.frozen import EncoderReport

FOLDER, CHECK_JSON = "check", "check.json"
_EPILOG = """examples:
  gdm_check 511
  gdm_check 511 --register 611
  gdm_check 511 3d_fullres --encoder random

Look at every pair on check/contact_sheet_1.png: edges must run on from square to square. Exit
status 1 if something is flagged. --register writes a copy of the dataset in which the sources that
are off lie on their targets; the dataset itself is never changed.

--encoder shows instead what a feature encoder sees in a fold's training targets, beside a random
one, on the CPU. Blur should weigh more than noise and than a shift by one voxel, more so than in
the random encoder. A tissue read-out far below the random encoder's shows wrong intensities or
axes."""


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_dataset_arguments("dataset", "configuration", "fold", required=1)
    text = "for check.json and pictures (default: DATASET/check among the preprocessed)"
    add_path(parser, "-o", "output", text)
    text = "write a registered copy under this new number"
    parser.add_argument("--register", metavar="ID", help=text)
    parser.add_encoder_options(without=["iterations"])
    text = "of the encoder's patches and random weights"
    parser.add_argument("--seed", type=int, default=0, help=text)
    parser.add_shared_options()
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_check."""
    encoder, roots = encoder_settings(args), roots_from(args)
    if encoder is None:
        return _check_pairs(args, roots)
    if args.configuration is None or args.output or args.register:
        raise SettingError(
            "--encoder needs a prepared configuration, such as 3d_fullres (-c), and takes neither"
            " -o nor --register"
        )
    where = (args.dataset, args.configuration, args.fold or "0", roots)
    print("\n".join(_check_encoder(*where, encoder, seed=args.seed)))
    return 0


def _check_pairs(args: argparse.Namespace, roots: Roots) -> int:
    from gdmnet.data.raw import read_description
    from gdmnet.datasets.conversion import new_dataset
    from gdmnet.datasets.registration import write_registered

    if args.configuration or args.fold:
        raise SettingError(
            "a configuration and a fold go with --encoder: without it, all is looked at"
        )
    raw, n_processes = roots.raw / resolve_dataset(args.dataset, roots.raw), args.n_processes
    copy = None
    if args.register is not None:  # refused before the long look
        copy = new_dataset(roots.raw, args.register, f"{raw.name[11:]}Registered")
    output = args.output or roots.preprocessed / raw.name / FOLDER
    description = read_description(raw)
    check, files = _examine(raw, description, n_processes)
    codec.save(check, output / CHECK_JSON)
    sheets = _draw_pictures(check, files, description, output, n_processes)
    print("\n".join([*_table(check), f"written: {output}"]))
    if sheets:
        print(f"look at every pair: {', '.join(map(str, sheets))}")
    if copy is not None:
        found = {case.identifier: case.alignments for case in check.cases}
        moved = write_registered(raw, copy, files, found, n_processes=n_processes)
        print(f"written: {copy}, moved: {', '.join(moved) or 'nothing'}")
    return 0 if check.is_sound else 1


def _examine(
    raw: Path, description: Description, n_processes: int
) -> tuple[DatasetCheck, list[CaseFiles]]:
    """Check a dataset; also the files of its cases that have targets."""
    from gdmnet.data.check import check_dataset
    from gdmnet.data.raw import test_cases, training_cases
    from gdmnet.datasets.soundness import LIMITS, DatasetCheck, examine_dataset

    cases = (*training_cases(raw, description)[0], *test_cases(raw, description)[0])
    files = [case for case in cases if case.target is not None]
    complaints = tuple(map(str, check_dataset(raw, n_processes=n_processes)))
    facts = tuple(examine_dataset(files, description, n_processes=n_processes))
    return DatasetCheck(DatasetCheck.SCHEMA, raw.name, LIMITS, complaints, facts), files


def _draw_pictures(
    check: DatasetCheck,
    files: Sequence[CaseFiles],
    description: Description,
    output: Path,
    n_processes: int,
) -> list[Path]:
    """Write contact sheets, which are returned, and a picture of each flagged case."""
    from gdmnet.datasets.pair_picture import draw_pair, draw_thumbnail, save_contact_sheets
    from gdmnet.datasets.registration import move
    from gdmnet.parallel import map_cases, progress_bar
    from gdmnet.report.picture import save_picture

    earlier = {f"{case.identifier}.png" for case in files}
    for picture in output.glob("*.png"):  # others may be somebody's
        if picture.name in earlier or picture.match("contact_sheet_*.png"):
            picture.unlink()
    pairs = zip(files, check.cases, strict=True)
    readable = [(case, found) for case, found in pairs if found.overlap is not None]
    for case, found in progress_bar([(c, f) for c, f in readable if f.flags], "pictures"):
        motions = [own.motion for own in found.alignments[:1]]
        moved = partial(move, motions[0]) if motions else None
        drawn = draw_pair(case, description, found.flags[0], moved)
        save_picture(drawn, output / f"{case.identifier}.png")
    draw, cases = partial(draw_thumbnail, description=description), [case for case, _ in readable]
    thumbnails = map_cases(draw, cases, n_processes=n_processes, title="contact sheet")
    titles = [f"{case.identifier}{' (look)' * bool(found.flags)}" for case, found in readable]
    channels = f"{description.channel_names[0]} and {description.target_name} in squares"
    heading = f"{check.dataset}: {channels} of 24 mm, axial above coronal"
    named = list(zip(titles, thumbnails, strict=True))
    return save_contact_sheets(named, output, heading=heading)


def _table(check: DatasetCheck) -> list[str]:
    """A row a case, then every complaint and flag in a line."""
    rows = [("case", "Dice", "mm", "degrees", "mirrored fits", ""), *map(_row, check.cases)]
    flags = [f"{case.identifier}: {flag}" for case in check.cases for flag in case.flags]
    complaints = [f"integrity: {complaint}" for complaint in check.complaints]
    n_flagged = sum(bool(case.flags) for case in check.cases)
    summary = f"{n_flagged} of {len(check.cases)} cases flagged"
    return [*text_table(rows), *flags, *complaints, summary]


def _row(case: CaseFacts) -> tuple[str, ...]:
    numbers = ("-", "-", "-")
    if case.alignments:
        worst = max(case.alignments, key=lambda found: found.distance)
        share = worst.mirrored_information / max(worst.motion.information, 1e-6)
        numbers = (f"{worst.distance:.1f}", f"{worst.angle:.1f}", f"{100 * share:.0f} %")
    overlap = "-" if case.overlap is None else f"{case.overlap:.3f}"
    return case.identifier, overlap, *numbers, "look" if case.flags else ""


def _check_encoder(
    dataset: str, configuration: str, fold: str, roots: Roots, choice: EncoderSettings, *, seed: int
) -> list[str]:
    """Where an encoder came from, and measures of it on patches of a fold's training targets."""
    from gdmnet.training import feature_encoder
    from gdmnet.training.feature_encoder import prepare_encoder
    from gdmnet.training.run import describe_training
    from gdmnet.training.usefulness import describe, measures_table

    settings = TrainingSettings(seed=seed, device="cpu")
    training = describe_training(dataset, configuration, fold, roots, settings)
    patch = feature_encoder.pretraining_patch(training.configuration.patch_size)
    examined = replace(training.configuration, patch_size=patch)
    training = replace(training, configuration=examined)
    if choice.name == "self" and choice.weights is None:  # is read, not trained
        choice = replace(choice, weights=training.encoder_folder / feature_encoder.ENCODER_FILE)
    encoder = prepare_encoder(training, choice)
    control = prepare_encoder(training, EncoderSettings("random"))
    _, cases = feature_encoder.split_cases(training.cases()[0])
    held_out = feature_encoder.held_out_patches(cases, examined, seed=seed)
    measured = {"this": describe(encoder, held_out), "random": describe(control, held_out)}
    return [*_origin(encoder.report), "", *measures_table(measured)]


def _origin(report: EncoderReport | None) -> list[str]:
    """Where an encoder came from: a fact a line."""
    if report is None:
        return []
    facts = {
        "encoder": report.name,
        "weights": report.file or "none",
        "sha256": report.sha256,
        "tensors": f"{report.n_tensors} read; {report.n_others} others in the file",
        "stages": ", ".join(map(str, report.stages)),
        "channels": ", ".join(map(str, report.channels)),
        "strides": ", ".join("x".join(map(str, stride)) for stride in report.strides),
        "zoom": " ".join(f"{factor:.3g}" for factor in report.zoom),
        "outside": f"{100 * report.outside:.0f} % of the target's range",
    }
    return text_table([item for item in facts.items() if item[1] is not None], n_left=None)
