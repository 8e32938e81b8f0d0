"""gdm_evaluate: measure predictions against references, and judge how real they look."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from gdmnet import codec
from gdmnet.commands.terminal import add_path, command, new_parser
from gdmnet.compare.settings import JUDGE_JSON, JUDGE_KINDS, JudgeSettings
from gdmnet.errors import DatasetError
from gdmnet.folders import SUMMARY_JSON
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.metrics.titles import TITLES, title_of
from gdmnet.settings import add_settings, given_settings, settings_from
from gdmnet.table import Cell, cell_text, text_table

if TYPE_CHECKING:
    from gdmnet.metrics.summary import Summary

_EPILOG = """examples:
  gdm_evaluate -p out/ -r targets/ --masks masks/
  gdm_evaluate -p out/ -r targets/ --convention synthrad2025 --csv scores.csv
  gdm_evaluate -p out/ -r targets/ --judge --train-on gdmnet_raw/Dataset501_MRtoCT/targetsTr

Without --masks the body is computed from each reference (sparse-ct: the inscribed circle of the
slices counts); summary.json says how. It holds more metrics than the table shows."""
_WIDTH, _LONGEST_NAME = 100, 32


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    for option, name, text in (
        ("-p", "predictions", "predictions, one image a case"),
        ("-r", "references", "references of the same names; or a tree of DICOM series"),
        ("--masks", "masks", "masks: where errors count (default: the body, computed)"),
        ("--seg-pred", "seg_pred", "segmentations of the predictions: adds Dice and HD95"),
        ("--seg-ref", "seg_ref", "segmentations of the references, same labels"),
        ("--regions", "regions", "label files: MAE and bias, and depths, of each label"),
    ):
        add_path(parser, option, name, text, required=name in ("predictions", "references"))
    text = "the summary to write (default: summary.json among the predictions)"
    add_path(parser, "-o", "output", text, metavar="FILE")
    add_path(parser, "--csv", "csv", "also a table, one row a case", metavar="FILE")
    add_settings(parser, EvaluationSettings)
    parser.add_shared_options(roots=())
    group = parser.add_argument_group(
        "judge (a network trained on real images only, about a minute of one core)"
    )
    group.add_argument(
        "--judge",
        dest="kind",
        nargs="?",
        const=JUDGE_KINDS[0],
        choices=JUDGE_KINDS,
        default=argparse.SUPPRESS,
        help="also judge how real the predictions look, by an encoder that no training has seen:"
        " trained without normalisation layers (self, the default), with random weights, or"
        " trained with group norm; writes judge.json beside the summary",
    )
    text = "other real images: the judge learns from them and they give the floor"
    add_path(group, "--train-on", "train_on", f"{text} (default: the references)")
    add_settings(group, JudgeSettings, without=["kind"])
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_evaluate."""
    from gdmnet.data.dicom_partners import partner_folders

    with partner_folders(args.predictions, None, args.references, print) as (_, references):
        args.references = references
        return _evaluate(args)


def _evaluate(args: argparse.Namespace) -> int:
    from gdmnet.metrics.evaluation import EvaluationFolders, evaluate_folders, sound_pairs
    from gdmnet.metrics.summary import as_csv

    if (args.seg_pred is None) != (args.seg_ref is None):
        raise DatasetError("--seg-pred and --seg-ref belong together; give both or none")
    labels = None if args.seg_pred is None else (args.seg_pred, args.seg_ref)
    folders = EvaluationFolders(args.predictions, args.references, args.masks, labels, args.regions)
    settings = settings_from(args, EvaluationSettings)
    judge = _judge_settings(args)
    if judge is not None and judge.encoder is not None:
        from gdmnet.compare.verdict import refuse_own_encoder

        refuse_own_encoder(args.predictions, judge.encoder)
    summary = evaluate_folders(folders, settings, n_processes=args.n_processes)
    written = [args.output or args.predictions / SUMMARY_JSON]
    codec.save(summary, written[0], private=True)
    print("\n".join(table(summary)))
    if args.csv is not None:
        codec.write_text(args.csv, as_csv(summary), private=True)
        written.append(args.csv)
    verdict_json = written[0].with_name(JUDGE_JSON)
    if judge is None and verdict_json.is_file():
        print(f"{verdict_json}: of an earlier evaluation; --judge makes it anew", file=sys.stderr)
    if judge is not None:
        from gdmnet.compare.verdict import judge_pairs, verdict_lines

        pairs, _ = sound_pairs(folders, keep_going=True)
        scored = [pair for pair in pairs if pair.identifier in summary.cases]
        match = summary.match_intensity is not None
        verdict = judge_pairs(scored, judge, args.train_on, match=match)
        codec.save(verdict, verdict_json, private=True)
        written.append(verdict_json)
        print("\n".join(["", *verdict_lines(verdict)]))
    print(f"written: {', '.join(map(str, written))}")
    for reason in summary.failed.values():
        print(f"not evaluated: {reason}", file=sys.stderr)
    return 1 if summary.failed else 0


def table(summary: Summary) -> list[str]:
    """The summary as text: a line a case, then a line a statistic, at most 100 columns wide.

    Below it depths and regions, as means over the cases.
    """
    from gdmnet.metrics.statistics import STATISTICS
    from gdmnet.report.depths import depth_rows, region_rows

    shown = {m: title_of(m, summary.unit) for m in TITLES if m in summary.aggregate}
    cases = summary.cases.items()
    rows: list[list[Cell]] = [
        ["case", *shown.values()],
        *([_shortened(name), *map(values.get, shown)] for name, values in cases),
        *([s, *(summary.aggregate[m][s] for m in shown)] for s in STATISTICS[:-1]),
        [STATISTICS[-1], *(cell_text(summary.aggregate[m]["count"]) for m in shown)],
    ]
    lines = text_table(rows, width=_WIDTH)
    rule, n_cases = "-" * max(map(len, lines)), len(cases)
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
    lines = [lines[0], rule, *lines[1 : n_cases + 1], rule, *lines[n_cases + 1 :]]
    means = {metric: values["mean"] for metric, values in summary.aggregate.items()}
    more = [own for own in (depth_rows(means), region_rows(means, summary.unit)) if own]
    for own in more:
        lines += ["", *text_table(own, width=_WIDTH)]
    return [*lines, *([""] if more else []), *notes]


def _judge_settings(args: argparse.Namespace) -> JudgeSettings | None:
    given = given_settings(args, JudgeSettings)
    if "kind" in given or "encoder" in given:
        return JudgeSettings(**given)
    if given or args.train_on is not None:
        raise DatasetError("the judge's options need --judge; add it")
    return None


def _shortened(name: str) -> str:
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}..{name[1 - half :]}"
