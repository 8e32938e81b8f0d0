"""gdm_report: one HTML file that shows predictions, their errors and where they come from."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from gdmnet import __version__, codec
from gdmnet.commands.terminal import add_nifti_option, add_processes_option, guarded, new_parser
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.settings import add_settings, given_settings, make_settings

REPORT_HTML = "report.html"
_EPILOG = """example:
  gdm_report -p out/ -r targets/ -s in/

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
    ):
        needed = name == "predictions"
        parser.add_argument(option, dest=name, type=Path, required=needed, metavar="DIR", help=text)
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help="the report to write (default: report.html among the predictions)",
    )
    add_settings(parser, EvaluationSettings, ("convention", "match_intensity", "every_reference"))
    add_processes_option(parser)
    add_nifti_option(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_report."""
    args = build_parser().parse_args(argv)
    typed = shlex.join(["gdm_report", *(sys.argv[1:] if argv is None else argv)])

    def body() -> int:
        from gdmnet.data.dicom_partners import partner_folders

        given = args.sources, args.targets
        with partner_folders(args.predictions, *given, print) as (args.sources, args.targets):
            return _report(args, typed, has_files=args.sources == given[0])

    return guarded(body)


def _report(args: argparse.Namespace, typed: str, *, has_files: bool) -> int:
    from datetime import datetime
    from functools import partial

    from gdmnet.metrics.evaluation import EvaluationFolders, evaluate_folders
    from gdmnet.parallel import map_cases
    from gdmnet.report.cases import PREDICTION, ReportFolders, find_cases
    from gdmnet.report.page import ReportPage, render
    from gdmnet.report.provenance import read_origin
    from gdmnet.report.view import case_page

    output = args.output or args.predictions / REPORT_HTML
    settings = make_settings(EvaluationSettings, given_settings(args, EvaluationSettings))
    cases = find_cases(ReportFolders(args.predictions, args.targets, args.sources, args.masks))
    files = {case.identifier: case.sources for case in cases} if has_files else {}
    origin = read_origin(args.predictions, files)
    summaries = {}
    if args.targets is not None:
        compared = EvaluationFolders(args.predictions, args.targets, args.masks)
        summary = evaluate_folders(compared, settings, n_processes=args.n_processes)
        summaries[PREDICTION] = summary
    pages = map_cases(
        partial(
            case_page,
            channel_names=origin.channel_names,
            summaries=summaries,
            convention=settings.convention,
        ),
        cases,
        n_processes=args.n_processes,
        name=lambda case: case.identifier,
        title="packing",
    )
    report = ReportPage(
        title=f"Predictions in {args.predictions.resolve().name}",
        cases=tuple(pages),
        summaries=summaries,
        origin=origin,
        made=(
            ("gdmnet", __version__),
            ("command", typed),
            ("date", datetime.now().astimezone().isoformat(" ", "minutes")),
        ),
    )
    codec.write_text(output, render(report), private=True)
    print(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return 0
