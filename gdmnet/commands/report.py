"""gdm_report: one HTML file that shows predictions, their errors and where they come from."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gdmnet import codec
from gdmnet.commands.terminal import add_path, command, new_parser, roots_from
from gdmnet.errors import SettingError
from gdmnet.folders import SUMMARY_JSON, fold_folder, n_default_processes
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.models.select import ModelChoice, choose_folds, find_model
from gdmnet.settings import add_settings, given_settings, settings_from

if TYPE_CHECKING:
    from gdmnet.metrics.summary import Summary
    from gdmnet.report.cases import ReportFolders

_EVALUATION = (
    "convention",
    "match_intensity",
    "allow_constant",
    "every_reference",
    "wepl",
    "density_table",
)
REPORT_HTML = "report.html"
_EPILOG = """examples:
  gdm_report -p out/ -r targets/ -s in/
  gdm_report 501 3d_fullres

The second one is about the validation of a trained fold, with the dataset's targets and sources.
The file needs no network and no other file: open it in any browser, keep it, send it. It holds the
images at no more than 2 MB a case: treat it as patient data."""


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    for option, name, text in (
        ("-p", "predictions", "predictions, one image a case (gdm_predict's output folder)"),
        ("-r", "targets", "what was to be predicted, images of the same names; or DICOM series"),
        ("-s", "sources", "what it was predicted from, CASE_0000<ending>; or DICOM series"),
        ("--masks", "masks", "masks: where errors count (default: the body, computed)"),
        ("--regions", "regions", "label files: MAE and bias, and depths, of each label"),
    ):
        add_path(parser, option, name, text)
    text = "the report to write (default: report.html among the predictions, or in the fold)"
    add_path(parser, "-o", "output", text, metavar="FILE")
    add_settings(parser, EvaluationSettings, _EVALUATION)
    parser.add_dataset_arguments("dataset", "configuration", "fold", required=0)
    parser.usage = "%(prog)s -p DIR [options], or %(prog)s [DATASET] [CONFIGURATION] [FOLD]"
    add_settings(parser, ModelChoice, ("objective", "model"))
    parser.add_shared_options(roots=("raw", "results"))
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_report."""
    from gdmnet.data.dicom_partners import partner_folders
    from gdmnet.report.cases import ReportFolders

    settings = EvaluationSettings()
    if args.predictions is None:
        fold, raw = _find_validation(args)
        found, output, title = _validation_folders(fold, raw), fold / REPORT_HTML, _title([fold])
        if (fold / SUMMARY_JSON).is_file():
            settings = _scored_by(_summary_of(fold))
    else:
        _refuse_choice(args)
        found = ReportFolders(args.predictions, args.targets, args.sources, args.masks)
        output = args.predictions / REPORT_HTML
        title = f"Predictions in {args.predictions.resolve().name}"
    settings = replace(settings, **given_settings(args, EvaluationSettings))
    if found.targets is None and (args.regions or settings.wepl):
        raise SettingError("--regions and --wepl compare with targets: give them by -r")
    output = args.output or output
    with partner_folders(found.predictions, found.sources, found.targets, print) as partners:
        images = replace(found, sources=partners[0], targets=partners[1], regions=args.regions)
        _write(
            [images],
            output,
            settings,
            shlex.join(["gdm_report", *args.typed]),
            title=title,
            has_files=partners[0] == found.sources,
            n_processes=args.n_processes,
        )
    print(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return 0


def _write(
    folders: Sequence[ReportFolders],
    output: Path,
    settings: EvaluationSettings,
    typed: str,
    *,
    title: str,
    summary: Summary | None = None,
    has_files: bool = True,
    n_processes: int,
) -> None:
    """Evaluate predictions, unless a summary tells how they did; pack their images, and write.

    Several folders, whose cases differ, need a summary. If it `has_files`, the sources are those
    that were translated, whose checksums are recorded.
    """
    from gdmnet.metrics.evaluation import EvaluationFolders, evaluate_folders
    from gdmnet.report.cases import PREDICTION, find_cases
    from gdmnet.report.page import pack_and_render
    from gdmnet.report.provenance import read_origin

    found = (case for own in folders for case in find_cases(own))
    cases = [case for case in found if summary is None or case.identifier in summary.cases]
    sources = {case.identifier: case.sources for case in cases} if has_files else {}
    first = folders[0]
    origin = read_origin(first.predictions, sources)
    if summary is None and first.targets is not None:
        images = first.predictions, first.targets, first.masks
        compared = EvaluationFolders(*images, regions=first.regions)
        summary = evaluate_folders(compared, settings, n_processes=n_processes)
    untold = [c.identifier for c in cases if c.uncertainties and c.identifier not in origin.cases]
    if untold:
        maps = f"{', '.join(untold)}: no predictions.json tells what the map of uncertainty holds"
        print(f"{maps}; it is taken for standard deviations", file=sys.stderr)
    coverage = {name: one.coverage for name, one in origin.cases.items()}
    cases = [replace(case, coverage=coverage.get(case.identifier)) for case in cases]
    summaries = {} if summary is None else {PREDICTION: summary}
    made = {"command": typed, "date": datetime.now().astimezone().isoformat(" ", "minutes")}
    how: dict[str, Any] = {"convention": settings.convention, "n_processes": n_processes}
    page = pack_and_render(title, cases, summaries, origin, made, **how)
    codec.write_text(output, page, private=True)


def report_validation(
    folds: Sequence[Path], raw: Path, output: Path, typed: str, summary: Summary | None = None
) -> None:
    """Write the report of one or several folds' validation, unless it is there and newer.

    The folds' folders hold validation/ and summary.json, `raw` is the raw dataset's; the page shows
    the command line that was `typed`. The summary is of all folds; None reads that of the only one.
    """
    newest = max((fold / SUMMARY_JSON).stat().st_mtime for fold in folds)
    if output.is_file() and output.stat().st_mtime >= newest:
        return
    summary = summary or _summary_of(folds[0])
    title, places = _title(folds), [_validation_folders(fold, raw) for fold in folds]
    how, n = _scored_by(summary), min(n_default_processes(), 1 + len(summary.cases) // 4)
    _write(places, output, how, typed, title=title, summary=summary, n_processes=n)


def _validation_folders(fold: Path, raw: Path) -> ReportFolders:
    """In the fold's folder and in the raw dataset."""
    from gdmnet.report.cases import ReportFolders

    masks = raw / "masksTr"
    has_masks = masks.is_dir() and any(masks.iterdir())
    images = raw / "targetsTr", raw / "imagesTr", masks if has_masks else None
    return ReportFolders(fold / "validation", *images)


def _title(folds: Sequence[Path]) -> str:
    return f"Validation of {folds[0].parent.name}, {', '.join(fold.name for fold in folds)}"


def _summary_of(fold: Path) -> Summary:
    from gdmnet.metrics.summary import Summary

    return codec.load(Summary, fold / SUMMARY_JSON)


def _scored_by(summary: Summary) -> EvaluationSettings:
    return EvaluationSettings(summary.convention, summary.match_intensity)


def _find_validation(args: argparse.Namespace) -> tuple[Path, Path]:
    """The folders of the fold that is meant and of its raw dataset."""
    if args.targets or args.sources or args.masks:
        raise SettingError("-r, -s and --masks belong to predictions: give their folder by -p")
    roots = roots_from(args)
    model = find_model(settings_from(args, ModelChoice), roots.results)
    fold = fold_folder(model, *choose_folds(model, [args.fold or "0"]))
    return fold, roots.raw / model.parent.name


def _refuse_choice(args: argparse.Namespace) -> None:
    for word in (*given_settings(args, ModelChoice).values(), args.fold):
        if word is not None:
            raise SettingError(f"-p says where predictions lie: leave {word} out")
