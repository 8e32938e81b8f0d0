"""gdm_report: one HTML file that shows predictions, their errors and where they come from."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

from gdmnet import __version__, codec
from gdmnet.commands.terminal import add_processes_option, guarded, new_parser
from gdmnet.metrics.conventions import CONVENTIONS, GDMNET
from gdmnet.metrics.folders import MATCHES, Options, evaluate_folders
from gdmnet.metrics.pairs import Folders
from gdmnet.metrics.summary import Summary
from gdmnet.parallel import map_cases
from gdmnet.report.case import CasePage, case_page
from gdmnet.report.collect import PREDICTION, ReportCase, ReportFolders, find_cases
from gdmnet.report.page import ReportPage, render
from gdmnet.report.provenance import check_inputs, read_origin

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
        ("-r", "targets", "what was to be predicted, images of the same names"),
        ("-s", "sources", "what it was predicted from, CASE_0000<ending>"),
        ("-m", "masks", "masks: where errors count (default: the body, computed)"),
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
    parser.add_argument(
        "--convention",
        choices=CONVENTIONS,
        default=GDMNET,
        help="of the table's metrics, as in gdm_evaluate (default: %(default)s)",
    )
    parser.add_argument(
        "--match-intensity",
        choices=MATCHES,
        help="fit gain >= 0 and offset to each target first (targets without a unit)",
    )
    add_processes_option(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_report."""
    args = build_parser().parse_args(argv)
    output = args.output or args.predictions / REPORT_HTML

    def body() -> int:
        run(
            ReportFolders(args.predictions, args.targets, args.sources, args.masks),
            output,
            Options(args.convention, args.match_intensity, n_processes=args.n_processes),
        )
        print(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB)")
        return 0

    return guarded(body)


def run(folders: ReportFolders, output: Path, options: Options | None = None) -> None:
    """Write a report.

    Args:
        folders: where the images lie.
        output: the HTML file.
        options: how predictions are scored where there are targets.

    Raises:
        DatasetError: a folder or a partner is missing, grids differ, an image cannot be read.
        PlanError: predictions.json is damaged.
        OutputError: the report cannot be written.
    """
    options = options or Options()
    cases = find_cases(folders)
    origin = read_origin(folders.predictions)
    summaries = {}
    if folders.targets is not None:
        compared = Folders(folders.predictions, folders.targets, folders.masks)
        summaries = {PREDICTION: evaluate_folders(compared, options)}
    pages = map_cases(
        partial(_page, origin.channel_names, summaries, options.convention),
        cases,
        n_processes=options.n_processes,
        name=lambda case: case.identifier,
        title="packing",
    )
    report = ReportPage(
        title=f"Predictions in {folders.predictions.resolve().name}",
        cases=tuple(pages),
        summaries=summaries,
        origin=origin,
        inputs={
            case.identifier: check_inputs(origin.cases[case.identifier], case.sources)
            for case in cases
            if case.identifier in origin.cases
        },
        made=_made(folders, output, options),
    )
    codec.write_text(output, render(report))


def _page(
    channel_names: tuple[str, ...],
    summaries: Mapping[str, Summary],
    convention: str,
    case: ReportCase,
) -> CasePage:
    matches = {}
    for method, summary in summaries.items():
        values = summary.cases[case.identifier]
        gain, offset = values.get("gain"), values.get("offset")
        if gain is not None and offset is not None:
            matches[method] = (gain, offset)
    return case_page(case, channel_names, matches, convention)


def _made(folders: ReportFolders, output: Path, options: Options) -> tuple[tuple[str, str], ...]:
    words = ["gdm_report"]
    for option, path in (
        ("-p", folders.predictions),
        ("-r", folders.targets),
        ("-s", folders.sources),
        ("-m", folders.masks),
        ("-o", output),
    ):
        if path is not None:
            words += [option, str(path)]
    if folders.targets is not None:
        words += ["--convention", options.convention]
    if options.match_intensity is not None:
        words += ["--match-intensity", options.match_intensity]
    return (
        ("gdmnet", __version__),
        ("command", shlex.join(words)),
        ("date", datetime.now().astimezone().isoformat(" ", "minutes")),
    )
