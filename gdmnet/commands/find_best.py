"""gdm_find_best: compare the trained models of a dataset on cases they have not seen."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from gdmnet import __version__, codec, folders
from gdmnet.commands.terminal import (
    add_processes_option,
    add_root_options,
    guarded,
    new_parser,
    roots_from,
)
from gdmnet.compare.candidates import Candidate, Wanted, common_cases, find_candidates
from gdmnet.compare.contest import (
    CRITERIA,
    FIDELITY,
    PLAUSIBILITY,
    Contest,
    Verdict,
    decide,
    figures,
    score_candidates,
)
from gdmnet.data.case import CaseFiles
from gdmnet.data.raw import read_description, training_cases
from gdmnet.errors import DatasetError
from gdmnet.folders import Roots
from gdmnet.metrics.conventions import GDMNET
from gdmnet.metrics.paired import SIGNIFICANT, Paired

FIND_BEST_JSON = "find_best.json"
_EPILOG = """example:
  gdm_find_best 501

Every model is measured on the validation cases of its folds, against the raw targets, on the
cases that all models have. Which is best depends on what it is for: by fidelity, the smallest
mean absolute error; by plausibility, the nearest to real images in histogram and sharpness."""
_COLUMNS = {
    FIDELITY: "MAE [{units}]",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "histogram_w1": "hist. W1",
    "spectrum_distance": "spectrum",
    "sharpness": "sharpness",
    PLAUSIBILITY: "implausibility",
}
_TOLD = {
    FIDELITY: ("psnr", "ssim", "ms_ssim"),
    PLAUSIBILITY: ("histogram_w1", "gradient_w1", "spectrum_distance"),
}
_READING = (
    "differences are best minus rival, with the 95 % bootstrap interval of their mean and p of"
    " Wilcoxon's signed-rank test over the cases, not corrected for the number of comparisons"
)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_argument("dataset", help="501 or Dataset501_Name")
    for option, name, metavar, text in (
        ("-c", "configurations", "NAME", "only these configurations"),
        ("--objective", "objectives", "NAME", "only these objectives"),
        ("-f", "folds", "FOLD", "only these folds"),
    ):
        parser.add_argument(option, dest=name, nargs="+", metavar=metavar, help=text)
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help="where to write (default: find_best.json in the dataset's results)",
    )
    add_processes_option(parser)
    add_root_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_find_best."""
    args = build_parser().parse_args(argv)
    wanted = Wanted(args.objectives, args.configurations, args.folds)

    def body() -> int:
        roots = roots_from(args)
        dataset = folders.resolve_dataset(args.dataset, roots.results)
        output = args.output or roots.results / dataset / FIND_BEST_JSON
        contest = run(dataset, roots, wanted, output=output, n_processes=args.n_processes)
        print(describe(contest))
        print(f"written: {output}")
        return 0

    return guarded(body)


def run(
    dataset: str | int,
    roots: Roots,
    wanted: Wanted | None = None,
    *,
    output: Path | None = None,
    n_processes: int = 1,
) -> Contest:
    """Compare the trained models of a dataset.

    Args:
        dataset: 501 or "Dataset501_Name".
        roots: the folders; raw for the targets, results for the models.
        wanted: objectives, configurations and folds to look at; by default all.
        output: the JSON file to write, if any.
        n_processes: that share the work.

    Raises:
        GdmnetError: no such dataset, no model to compare, no case that all have, a target that is
            missing, an output that cannot be written.
    """
    name = folders.resolve_dataset(dataset, roots.results)
    candidates, notes = find_candidates(roots.results, name, wanted or Wanted())
    cases, told = common_cases(candidates)
    in_hu = all(candidate.has_unit for candidate in candidates)
    match = None if in_hu else "linear"
    scores = score_candidates(
        candidates, _truths(roots.raw / name, cases), match_intensity=match, n_processes=n_processes
    )
    commands = {candidate.name: predict_command(candidate) for candidate in candidates}
    contest = Contest(
        version=__version__,
        dataset=name,
        cases=tuple(cases),
        units="HU" if in_hu else "%",
        match_intensity=match,
        models={c.name: figures(c, scores[c.name]) for c in candidates},
        best={criterion: decide(scores, criterion, commands) for criterion in CRITERIA},
        notes=(*notes, *told, *_limits(candidates, len(cases))),
    )
    if output is not None:
        codec.save(contest, output)
    return contest


def predict_command(candidate: Candidate) -> str:
    """The gdm_predict command that uses the folds of a candidate."""
    words = ["gdm_predict", "-i", "IN", "-o", "OUT", "-m", str(candidate.folder)]
    if not candidate.is_every_fold:
        words += ["-f", *candidate.folds]
    return shlex.join(words)


def describe(contest: Contest) -> str:
    """The contest as text: a table of the models, then each verdict with its statistics."""
    n = len(contest.cases)
    matched = ", intensities matched linearly" if contest.match_intensity else ""
    title = f"{contest.dataset}: {n} case{'s' * (n > 1)} that no model was trained on{matched}"
    rows = [["model", "folds", *(t.format(units=contest.units) for t in _COLUMNS.values())]]
    for name, model in contest.models.items():
        means = model.aggregate[GDMNET]
        numbers = (_number(means.get(metric, {}).get("mean")) for metric in _COLUMNS)
        rows.append([name, " ".join(model.folds), *numbers])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(pairs))
        for pairs in (zip(row, widths, strict=True) for row in rows)
    ]
    verdicts = [_verdict(verdict, contest.units) for verdict in contest.best.values()]
    notes = [f"note: {note}" for note in contest.notes]
    return "\n\n".join([title, "\n".join(table), *verdicts, "\n".join(notes)])


def _verdict(verdict: Verdict, units: str) -> str:
    lines = [f"best by {verdict.criterion}: {verdict.model}"]
    unit = f" {units}" if verdict.criterion == FIDELITY else ""
    for rival, comparisons in verdict.against.items():
        found = {(c.convention, c.metric): c.paired for c in comparisons}
        own = found[GDMNET, verdict.criterion]
        judged = "" if own.is_significant else ": they do not differ significantly"
        lines.append(f"  against {rival}: {_paired(own, unit)}{judged}")
        lines += [
            f"    {convention} {metric}: {_paired(paired, '')}"
            for (convention, metric), paired in found.items()
            if metric in _TOLD[verdict.criterion]
        ]
    return "\n".join([*lines, f"  {verdict.command}"])


def _paired(paired: Paired, unit: str) -> str:
    interval = ""
    if paired.ci95_low is not None:
        interval = f" [{paired.ci95_low:+.3g}, {paired.ci95_high:+.3g}]"
    p = "no case differs" if paired.p is None else f"p = {paired.p:.2g}"
    return f"{paired.difference:+.3g}{unit}{interval} ({p})"


def _limits(candidates: Sequence[Candidate], n_cases: int) -> list[str]:
    """What the figures cannot show."""
    notes = []
    if not all(candidate.has_unit for candidate in candidates):
        notes.append("MAE in % of each reference's range (its percentiles 0.5 to 99.5)")
    if len(candidates) == 1:
        return [*notes, "there is only one model: nothing to compare it with"]
    least = 2.0 ** (1 - n_cases)
    if least >= SIGNIFICANT:
        cases = f"with {n_cases} case{'s' * (n_cases > 1)} p cannot be below {least:g}"
        notes.append(f"{cases}: no difference can be significant")
    return [*notes, _READING]


def _truths(raw: Path, identifiers: Sequence[str]) -> list[CaseFiles]:
    if not raw.is_dir():
        raise DatasetError(
            f"{raw}: no such folder; its targets are needed, name the place by --raw"
        )
    cases, _ = training_cases(raw, read_description(raw))
    known = {files.identifier: files for files in cases if files.target is not None}
    missing = [name for name in identifiers if name not in known]
    if missing:
        raise DatasetError(f"{raw}: no target of {', '.join(missing)}; put the files back")
    return [known[name] for name in identifiers]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
