"""gdm_evaluate: measure predictions against references."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gdmnet import codec
from gdmnet.commands.terminal import add_processes_option, guarded, new_parser
from gdmnet.errors import DatasetError
from gdmnet.folders import SUMMARY_JSON
from gdmnet.metrics.conventions import CONVENTIONS, GDMNET
from gdmnet.metrics.folders import DEFAULTS, MATCHES, Options, evaluate_folders
from gdmnet.metrics.pairs import Folders
from gdmnet.metrics.statistics import STATISTICS
from gdmnet.metrics.summary import Summary, as_csv

_EPILOG = """examples:
  gdm_evaluate -p out/ -r targets/ -m masks/
  gdm_evaluate -p out/ -r targets/ -m masks/ --convention synthrad2025 --csv scores.csv

Without -m the body is computed from each reference (sparse-ct: the inscribed circle of the
slices counts); summary.json says how. It holds more metrics than the table shows."""
_TITLES = {  # the most important ones first: the table takes as many as its width allows
    "mae": "MAE",
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "dice": "Dice",
    "hd95": "HD95 [mm]",
    "bias": "bias",
    "sharpness": "sharpness",
    "histogram_w1": "hist. W1",
    "spectrum_distance": "spectrum",
}
_WIDTH, _LONGEST_NAME = 100, 32


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    for option, name, text in (
        ("-p", "predictions", "predictions, one image a case"),
        ("-r", "references", "references of the same names"),
        ("-m", "masks", "masks: where errors count (default: the body, computed)"),
        ("--seg-pred", "seg_pred", "segmentations of the predictions: adds Dice and HD95"),
        ("--seg-ref", "seg_ref", "segmentations of the references, same labels"),
    ):
        needed = name in ("predictions", "references")
        parser.add_argument(option, dest=name, type=Path, required=needed, metavar="DIR", help=text)
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help="the summary to write (default: summary.json among the predictions)",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also a table, one row a case")
    parser.add_argument(
        "--convention",
        choices=CONVENTIONS,
        default=GDMNET,
        help="whose clipping, ranges and masks (default: %(default)s)",
    )
    parser.add_argument(
        "--match-intensity",
        choices=MATCHES,
        help="fit gain >= 0 and offset to each reference first (targets without a unit)",
    )
    for option, text in (
        ("--no-plausibility", "leave the plausibility metrics out"),
        ("--allow-constant", "score predictions of a single value too, as baselines"),
        ("--keep-going", "score the other cases when one cannot be; exit status 1"),
    ):
        parser.add_argument(option, action="store_true", help=text)
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
            segmentations=_both(args.seg_pred, args.seg_ref),
            output=output,
            csv=args.csv,
            options=Options(
                convention=args.convention,
                match_intensity=args.match_intensity,
                with_plausibility=not args.no_plausibility,
                allow_constant=args.allow_constant,
                keep_going=args.keep_going,
                n_processes=args.n_processes,
            ),
        )
        print(table(summary))
        print(f"written: {output}" + (f", {args.csv}" if args.csv else ""))
        for reason in summary.failed.values():
            print(f"not evaluated: {reason}", file=sys.stderr)
        return 1 if summary.failed else 0

    return guarded(body)


def run(
    predictions: Path,
    references: Path,
    masks: Path | None = None,
    *,
    segmentations: tuple[Path, Path] | None = None,
    output: Path | None = None,
    csv: Path | None = None,
    options: Options = DEFAULTS,
) -> Summary:
    """Evaluate a folder of predictions and write what is asked for.

    Args:
        predictions: folder of CASE<ending>.
        references: folder of the same cases on the same grids.
        masks: folder of masks; None computes them by the convention's rule.
        segmentations: folders of label maps of the predictions and of the references.
        output: the JSON file to write.
        csv: the table to write.
        options: convention, intensity match and so on.

    Raises:
        DatasetError: a folder or a partner is missing, two grids differ, or an image cannot be
            scored.
        OutputError: a file cannot be written.
    """
    summary = evaluate_folders(Folders(predictions, references, masks, segmentations), options)
    if output is not None:
        codec.save(summary, output)
    if csv is not None:
        codec.write_text(csv, as_csv(summary))
    return summary


def table(summary: Summary) -> str:
    """The summary as text: a line a case, then a line a statistic, at most 100 columns wide."""
    rows = [["case"], *([_shortened(name)] for name in summary.cases), *([s] for s in STATISTICS)]
    room = _WIDTH - max(len(row[0]) for row in rows)
    lines = [row[0].ljust(_WIDTH - room) for row in rows]
    for metric, title in _TITLES.items():
        if metric not in summary.aggregate:
            continue
        numbers = [values.get(metric) for values in summary.cases.values()]
        numbers += [summary.aggregate[metric][statistic] for statistic in STATISTICS]
        column = [title, *map(_number, numbers)]
        width = max(map(len, column)) + 2
        if width > room:
            break
        room -= width
        lines = [line + cell.rjust(width) for line, cell in zip(lines, column, strict=True)]
    rule = "-" * len(lines[0])
    n_cases = len(summary.cases)
    lines = [lines[0], rule, *lines[1 : n_cases + 1], rule, *lines[n_cases + 1 :]]
    span = summary.data_range
    notes = [
        f"convention: {summary.convention}",
        f"data range: {span if isinstance(span, str) else f'{span:g}'}",
        f"mask: {summary.mask}",
    ]
    if summary.match_intensity:
        notes.append(f"intensities matched: {summary.match_intensity}")
    if summary.note:
        notes.append(f"note: {summary.note}")
    return "\n".join([*lines, *notes])


def _both(predicted: Path | None, reference: Path | None) -> tuple[Path, Path] | None:
    if predicted is None and reference is None:
        return None
    if predicted is None or reference is None:
        raise DatasetError("--seg-pred and --seg-ref belong together; give both or none")
    return predicted, reference


def _shortened(name: str) -> str:
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}..{name[1 - half :]}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
