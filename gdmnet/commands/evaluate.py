"""gdm_evaluate: measure predictions against references."""

from __future__ import annotations

import argparse
from pathlib import Path

from gdmnet import codec
from gdmnet.commands.terminal import add_processes_option, guarded, new_parser
from gdmnet.folders import SUMMARY_JSON
from gdmnet.metrics.folders import MATCHES, Summary, evaluate_folders
from gdmnet.metrics.score import METRICS

_EPILOG = """example:
  gdm_evaluate -p out/ -r targets/ -m masks/

Without -m the body is computed from each reference; summary.json says how."""
_TITLES = {"mae": "MAE", "psnr": "PSNR [dB]", "ssim": "SSIM", "sharpness": "sharpness"}
_STATISTICS = ("mean", "std", "median", "min", "max", "count")


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    for option, name, text in (
        ("-p", "predictions", "predictions, one image a case"),
        ("-r", "references", "references of the same names"),
        ("-m", "masks", "masks: where errors count (default: the body, computed)"),
    ):
        parser.add_argument(
            option, dest=name, type=Path, required=name != "masks", metavar="DIR", help=text
        )
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help="the summary to write (default: summary.json among the predictions)",
    )
    parser.add_argument(
        "--match-intensity",
        choices=MATCHES,
        help="fit gain >= 0 and offset to each reference first (targets without a unit)",
    )
    add_processes_option(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_evaluate."""
    args = build_parser().parse_args(argv)
    output = args.output or args.predictions / SUMMARY_JSON

    def body() -> int:
        summary = run(
            args.predictions,
            args.references,
            args.masks,
            output=output,
            match_intensity=args.match_intensity,
            n_processes=args.n_processes,
        )
        print(table(summary))
        print(f"written: {output}")
        return 0

    return guarded(body)


def run(
    predictions: Path,
    references: Path,
    masks: Path | None = None,
    *,
    output: Path | None = None,
    match_intensity: str | None = None,
    n_processes: int = 1,
) -> Summary:
    """Evaluate a folder of predictions and write the summary, if `output` is given.

    Args:
        predictions: folder of CASE<ending>.
        references: folder of the same cases on the same grids.
        masks: folder of masks; None computes the body of each reference.
        output: the JSON file to write.
        match_intensity: "linear" or None.
        n_processes: that work on cases.

    Raises:
        DatasetError: a folder or a partner is missing, or two grids differ.
        OutputError: the summary cannot be written.
    """
    summary = evaluate_folders(
        predictions,
        references,
        masks,
        match_intensity=match_intensity,
        n_processes=n_processes,
    )
    if output is not None:
        codec.save(summary, output)
    return summary


def table(summary: Summary) -> str:
    """The summary as text: a line a case, then a line a statistic."""
    rows = [("case", *(_TITLES[metric] for metric in METRICS))]
    for name, values in summary.cases.items():
        rows.append((name, *(_number(values[metric]) for metric in METRICS)))
    for statistic in _STATISTICS:
        numbers = (_number(summary.aggregate[metric][statistic]) for metric in METRICS)
        rows.append((statistic, *numbers))
    first, *others = (max(len(cell) for cell in column) for column in zip(*rows, strict=True))
    lines = ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]
    rule = "-" * len(lines[0])
    n_cases = len(summary.cases)
    lines = [lines[0], rule, *lines[1 : n_cases + 1], rule, *lines[n_cases + 1 :]]
    notes = [f"data range: {summary.data_range}", f"mask: {summary.mask}"]
    if summary.match_intensity:
        notes.append(f"intensities matched: {summary.match_intensity}")
    return "\n".join([*lines, *notes])


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
