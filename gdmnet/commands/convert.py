"""gdm_convert: make a raw dataset from patients in DICOM, pairs of images, or SynthRAD's data."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gdmnet import codec
from gdmnet.commands.terminal import CommandParser, add_path, command, new_parser, roots_from
from gdmnet.datasets.settings import RESAMPLE, SeriesChoice
from gdmnet.errors import DatasetError
from gdmnet.settings import Settings, add_settings, setting, settings_from
from gdmnet.table import text_table

if TYPE_CHECKING:
    from gdmnet.data.case import Series
    from gdmnet.datasets.conversion import Conversion
    from gdmnet.datasets.dicom_pairs import SeriesPair

_DICOM = """example:
  gdm_convert dicom 512 -i patients/ --source "MR*t1*" --target "CT*plan*" --resample target

Every folder in patients/ is a patient; series are found at any depth. A pattern is compared with
what the table shows, "MODALITY SeriesDescription", and must fit one series of each patient."""
_PAIRS = """example:
  gdm_convert pairs 512 -i mr/ -r ct/
  gdm_convert pairs 512 -i mr/ -r ct/ --resample target --yes

The first prints the pairs and writes nothing; look at them, then say --yes."""
_SYNTHRAD = """example:
  gdm_convert synthrad 511 -i synthRAD2025/ --task 1 --year 2025 --region AB

Patients without a CT become test cases."""


@dataclass(frozen=True)
class ConversionOptions(Settings):
    """What is asked of every kind of input."""

    name: str | None = setting(None, "of the dataset (default: from what it holds)")
    test: tuple[str, ...] = setting(
        (),
        "cases or patients for imagesTs and targetsTs; all of a patient go there",
        metavar="CASE",
    )
    test_fraction: float = setting(
        0.0, "share of the patients for the test, drawn by seed", metavar="F"
    )
    seed: int = setting(0, "of the drawn patients", least=0)


@dataclass(frozen=True)
class FoundCases:
    """What a kind of input holds: what can be written, and its name unless another is given."""

    conversion: Conversion
    name: str
    patients: dict[str, str] = field(default_factory=dict)  # by case, where one may have several
    called: dict[str, str] = field(default_factory=dict)  # case by what a user calls the patient
    mapping: dict[str, Any] = field(default_factory=dict)  # case -> who it is, if that is asked


def build_parser() -> CommandParser:
    """The command's parser, with one for each kind of input."""
    parser = new_parser(__doc__ or "")
    parser.add_commands(
        {"dicom": _dicom_parser(), "pairs": _pairs_parser(), "synthrad": _synthrad_parser()}
    )
    return parser


def _new_parser(
    description: str, epilog: str, inputs: str, *, several: bool = False
) -> CommandParser:
    """What all kinds of input have in common."""
    parser = new_parser(description, epilog)
    parser.add_dataset_arguments("dataset", required=1)
    action = "append" if several else "store"
    add_path(parser, "-i", "inputs", inputs, metavar="IN", action=action, required=True)
    add_settings(parser, ConversionOptions)
    text = "print what was found and write nothing"
    parser.add_argument("--dry-run", action="store_true", help=text)
    parser.add_shared_options(roots=("raw",))
    return parser


def _dicom_parser() -> CommandParser:
    parser = _new_parser("folders of patients in DICOM", _DICOM, "folder of patients' folders")
    add_settings(parser, SeriesChoice)
    text = "write which case is which patient to this file, which identifies patients"
    add_path(parser, "--mapping", "mapping", text, metavar="FILE")
    return parser


def _pairs_parser() -> CommandParser:
    title = "folders of images that belong together by name"
    inputs = "sources; give it once for each channel"
    parser = _new_parser(title, _PAIRS, inputs, several=True)
    add_path(parser, "-r", "targets", "targets", required=True)
    add_path(parser, "--masks", "masks", "body masks")
    text = "of each channel (default: MR, or MR 0, MR 1, ...)"
    parser.add_argument("--source-name", action="append", metavar="NAME", help=text)
    text = "default: CT, which promises HU"
    parser.add_argument("--target-name", default="CT", metavar="NAME", help=text)
    text = "put this one onto the other's grid (default: none)"
    parser.add_argument("--resample", choices=RESAMPLE, help=text)
    text = "leave out images without a partner"
    parser.add_argument("--skip-unmatched", action="store_true", help=text)
    text = "the pairs are right: write them"
    parser.add_argument("--yes", dest="dry_run", action="store_false", help=text)
    parser.set_defaults(dry_run=True)
    return parser


def _synthrad_parser() -> CommandParser:
    inputs = "the folder that holds Task1 or Task2"
    needed: dict[str, Any] = {"type": int, "required": True}
    parser = _new_parser("the SynthRAD challenges' data", _SYNTHRAD, inputs)
    parser.add_argument("--task", choices=(1, 2), help="1: MR to CT, 2: CBCT to CT", **needed)
    parser.add_argument("--year", choices=(2023, 2025), **needed)
    text = "brain, pelvis (2023), HN, TH, AB (2025) or all (default: all)"
    parser.add_argument("--region", default="all", help=text)
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_convert."""
    find = {"dicom": _find_dicom, "pairs": _find_pairs, "synthrad": _find_synthrad}[args.command]
    from gdmnet.datasets.conversion import new_dataset, set_apart, write_dataset

    raw, options = roots_from(args).raw, settings_from(args, ConversionOptions)
    new_dataset(raw, args.dataset, options.name or "Name")  # refused before the long look
    found = find(args)
    test = [found.called.get(name, name) for name in options.test]
    share, seed = options.test_fraction, options.seed
    conversion = set_apart(found.conversion, found.patients, test, fraction=share, seed=seed)
    if conversion.testing:
        print(f"for the test: {', '.join(case.identifier for case in conversion.testing)}")
    if args.dry_run:
        how = "; if the pairs are right, say --yes" if args.command == "pairs" else ""
        print(f"nothing was written{how}")
        return 0
    folder = new_dataset(raw, args.dataset, options.name or found.name)
    if found.mapping:  # first: without it nobody knows whose the cases of the dataset are
        codec.save(found.mapping, args.mapping, private=True)
    write_dataset(conversion, folder, n_processes=args.n_processes)
    print(f"{folder} is written; next: gdm_check {args.dataset}")
    return 0


def _find_dicom(args: argparse.Namespace) -> FoundCases:
    from gdmnet.datasets.dicom_pairs import find_pairs, make_conversion, mapping

    choice = settings_from(args, SeriesChoice)
    found = find_pairs(args.inputs, choice, n_processes=args.n_processes)
    left = ", ".join(f"{what} ({count})" for what, count in sorted(found.skipped.items()))
    notes = [*([f"left aside: {left}"] if left else []), *found.notes]
    rows = [("case", "folder", "source", "target", "grids"), *map(_dicom_row, found.pairs)]
    _show([*(text_table(rows, n_left=None) if found.pairs else ()), *notes], found.complaints)
    conversion = make_conversion(found.pairs, choice)
    first: dict[str, str] = {}  # case of each patient's first folder
    return FoundCases(
        conversion,
        f"{conversion.channel_names[0].split()[0]}to{conversion.target_name}",
        patients={
            p.case: first.setdefault(p.target.patient or p.case, p.case) for p in found.pairs
        },
        called={pair.patient: pair.case for pair in found.pairs},
        mapping={} if args.mapping is None else mapping(found.pairs),
    )


def _dicom_row(pair: SeriesPair) -> tuple[str, ...]:
    """What is used of a folder; nothing of the patient but the folder's name."""
    from gdmnet.data.dicom import grid_of
    from gdmnet.geometry import grid_difference

    is_same = grid_difference(grid_of(pair.sources[0]), grid_of(pair.target)) is None
    sources = " + ".join(map(_series, pair.sources))
    return pair.case, pair.patient, sources, _series(pair.target), "same" if is_same else "differ"


def _series(series: Series) -> str:
    from gdmnet.data.dicom import grid_of

    grid = grid_of(series)
    shape = "x".join(str(n) for n in grid.shape)
    spacing = "x".join(f"{mm:.3g}" for mm in grid.spacing)
    return f"{series.label} {shape}, {spacing} mm"


def _find_pairs(args: argparse.Namespace) -> FoundCases:
    from gdmnet.datasets.conversion import Conversion, grid_complaints, name_of_image
    from gdmnet.datasets.pairs import match_folders, patient_of

    n_channels = len(args.inputs)
    numbered = [f"MR {i}" for i in range(n_channels)] if n_channels > 1 else ["MR"]
    names = args.source_name or numbered
    if len(names) != n_channels:
        counts = f"{n_channels} folders of sources but {len(names)} names"
        raise DatasetError(f"{counts}; give --source-name once for each -i")
    found = match_folders(args.inputs, args.targets, args.masks)
    rows: list[tuple[str | None, ...]] = [("case", "source", "target", "mask", "matched by")]
    for case in found.cases:
        sources = " + ".join(map(name_of_image, case.sources))
        partners = [name_of_image(image) if image else None for image in (case.target, case.mask)]
        rows.append((case.identifier, sources, *partners, found.rules[case.identifier]))
    conversion = Conversion(tuple(names), args.target_name, found.cases, resample=args.resample)
    complaints = [f"{path}: no partner of its name" for path in found.lonely]
    _show(
        [*text_table(rows, n_left=None), *(f"without a partner: {path}" for path in found.lonely)],
        ([] if args.skip_unmatched else complaints) + grid_complaints(conversion),
    )
    return FoundCases(
        conversion,
        f"{names[0].split()[0]}to{args.target_name}".replace(" ", ""),
        patients={case.identifier: patient_of(case.identifier) for case in found.cases},
    )


def _find_synthrad(args: argparse.Namespace) -> FoundCases:
    from gdmnet.datasets.conversion import grid_complaints
    from gdmnet.datasets.synthrad import find_patients, make_conversion

    patients = find_patients(args.inputs, task=args.task, year=args.year, region=args.region)
    counts = Counter((patient.region, patient.centre) for patient in patients)
    conversion = make_conversion(patients, task=args.task, year=args.year)
    _show(
        [f"{region}, centre {name}: {n} patients" for (region, name), n in sorted(counts.items())],
        grid_complaints(conversion),
    )
    return FoundCases(conversion, f"SynthRAD{args.year}Task{args.task}{args.region}")


def _show(lines: Sequence[str], complaints: Sequence[str]) -> None:
    print("\n".join(lines))
    if complaints:
        head = f"{len(complaints)} complaint{'s' if len(complaints) > 1 else ''}"
        raise DatasetError("\n  ".join([f"{head}; nothing was written", *complaints]))
