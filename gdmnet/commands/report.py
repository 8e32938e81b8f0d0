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
from gdmnet.commands.terminal import add_path, guarded, new_parser, roots_from
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
    parser.add_dataset_arguments("dataset", "configuration", "fold", required=0, fold="0")
    parser.usage = "%(prog)s -p DIR [options], or %(prog)s [DATASET] [CONFIGURATION] [FOLD]"
    add_settings(parser, ModelChoice, ("objective", "model"))
    parser.add_shared_options(roots=("raw", "results"))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_report."""
    args = build_parser().parse_args(argv)
    typed = shlex.join(["gdm_report", *(sys.argv[1:] if argv is None else argv)])

    def body() -> int:
        from gdmnet.data.dicom_partners import partner_folders
        from gdmnet.report.cases import ReportFolders

        given = given_settings(args, EvaluationSettings)
        if args.predictions is None:
            title, scored_by = _find_validation(args)
            given = scored_by | given
        elif args.dataset is not None:
            raise SettingError(f"-p says where predictions lie: leave {args.dataset} out")
        else:
            title = f"Predictions in {args.predictions.resolve().name}"
        if args.targets is None and (args.regions or given.get("wepl")):
            raise SettingError("--regions and --wepl compare with targets: give them by -r")
        places = args.sources, args.targets
        output = args.output or args.predictions / REPORT_HTML
        how: dict[str, Any] = {"title": title, "n_processes": args.n_processes}
        with partner_folders(args.predictions, *places, print) as (sources, targets):
            found = ReportFolders(args.predictions, targets, sources, args.masks, args.regions)
            has_files, settings = sources == places[0], EvaluationSettings(**given)
            write_report([found], output, settings, typed, has_files=has_files, **how)
        print(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB)")
        return 0

    return guarded(body)


def write_report(
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
    """Evaluate predictions, pack their images, and write the page.

    Args:
        folders: where the images lie; several, whose cases differ, need a summary.
        output: the file.
        settings: of the evaluation.
        typed: the command line, for the page.
        title: of the page.
        summary: of an evaluation by these settings that was done already.
        has_files: the sources are the files that were translated, whose checksums are recorded.
        n_processes: that evaluate and pack.
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

    Args:
        folds: their folders, with validation/ and summary.json.
        raw: folder of the raw dataset.
        output: the file.
        typed: the command line, for the page.
        summary: of all folds; None reads that of the only one.
    """
    from gdmnet.metrics.summary import Summary

    newest = max((fold / SUMMARY_JSON).stat().st_mtime for fold in folds)
    if output.is_file() and output.stat().st_mtime >= newest:
        return
    summary = summary or codec.load(Summary, folds[0] / SUMMARY_JSON)
    settings = EvaluationSettings(summary.convention, summary.match_intensity)
    title, places = _validation_title(folds), [validation_folders(fold, raw) for fold in folds]
    n = min(n_default_processes(), 1 + len(summary.cases) // 4)
    write_report(places, output, settings, typed, title=title, summary=summary, n_processes=n)


def validation_folders(fold: Path, raw: Path) -> ReportFolders:
    """Where the images of a fold's validation lie: in its folder and in the raw dataset."""
    from gdmnet.report.cases import ReportFolders

    masks = raw / "masksTr"
    has_masks = masks.is_dir() and any(masks.iterdir())
    images = raw / "targetsTr", raw / "imagesTr", masks if has_masks else None
    return ReportFolders(fold / "validation", *images)


def _validation_title(folds: Sequence[Path]) -> str:
    return f"Validation of {folds[0].parent.name}, {', '.join(fold.name for fold in folds)}"


def _find_validation(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Put the folders of a fold's validation into the arguments.

    Returns:
        The page's title, and the settings that it was scored by.
    """
    from gdmnet.metrics.summary import Summary

    if args.targets or args.sources or args.masks:
        raise SettingError("-r, -s and --masks belong to predictions: give their folder by -p")
    roots = roots_from(args)
    model = find_model(settings_from(args, ModelChoice), roots.results)
    fold = fold_folder(model, *choose_folds(model, [args.fold]))
    found = validation_folders(fold, roots.raw / model.parent.name)
    args.predictions, args.targets = found.predictions, found.targets
    args.sources, args.masks = found.sources, found.masks
    args.output = args.output or fold / REPORT_HTML
    scored_by = {}
    if (fold / SUMMARY_JSON).is_file():
        scored_by["match_intensity"] = codec.load(Summary, fold / SUMMARY_JSON).match_intensity
    return _validation_title([fold]), scored_by
