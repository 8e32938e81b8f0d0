"""gdm_compare: train, predict and judge several methods alike, and put them beside each other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.commands.encoder_options import add_encoder_options, encoder_settings
from gdmnet.commands.terminal import (
    add_device_option,
    add_processes_option,
    add_root_options,
    guarded,
    new_parser,
    positive_float,
    positive_int,
    roots_from,
    share,
)
from gdmnet.compare import estimate as estimates
from gdmnet.compare import work as work
from gdmnet.compare.bench import Bench
from gdmnet.compare.held_out import find_held_out
from gdmnet.compare.judge import ITERATIONS
from gdmnet.compare.make_study import make_pictures, make_study
from gdmnet.compare.settings import SETTINGS_JSON, Asked, settle
from gdmnet.compare.study import SLAB, VOLUME, Study
from gdmnet.compare.study_page import study_markdown, study_page
from gdmnet.compare.variant import make_methods, parse_steps, parse_variants
from gdmnet.folders import Roots
from gdmnet.metrics.conventions import CONVENTIONS, GDMNET
from gdmnet.metrics.folders import MATCHES
from gdmnet.metrics.folders import Options as ScoreOptions
from gdmnet.models.device import find_device
from gdmnet.objectives.options import OPTIONS
from gdmnet.plan import Plan

COMPARE_JSON, COMPARE_MD, COMPARE_HTML = "compare.json", "compare.md", "compare.html"
_EPILOG = """examples:
  gdm_compare 501 3d_fullres --objectives gdm regression regression:perceptual=0.1 --epochs 20
  gdm_compare 501 3d_fullres --minutes 5 --steps flow=1,4,16 --slab 48

What is missing is trained, predicted and judged; what is there is kept, so a command that was
stopped goes on when it is given again. The estimated time is printed first (--dry-run: only that).
Judged on imagesTs and targetsTs if the dataset has them, else on the folds' validation cases."""


@dataclass(frozen=True)
class Options:
    """What `run` may be told; None is as the comparison began, or the default's choice.

    Attributes:
        objectives: NAME or NAME:option=value,option=value; None for all objectives.
        steps: NAME=1,4,16, of objectives with a sampler.
        slab: voxels along z of the central slab.
        device: auto, cpu, cuda, ...
        dry_run: print the estimated time and stop.
        scoring: convention, intensity match, processes.
        asked: of the settings that all variants share.
    """

    objectives: Sequence[str] | None = None
    steps: Sequence[str] = ()
    slab: int | None = None
    device: str = "auto"
    dry_run: bool = False
    scoring: ScoreOptions = field(default_factory=lambda: ScoreOptions(allow_constant=True))
    asked: Asked = field(default_factory=Asked)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", _EPILOG)
    parser.add_argument("dataset", help="501 or Dataset501_Name")
    parser.add_argument("configuration", help="3d_fullres, 3d_lowres, ...")
    parser.add_argument(
        "--objectives",
        nargs="+",
        metavar="NAME",
        help=f"NAME or NAME:option=value,...; names: {', '.join(OPTIONS)} (default: these)",
    )
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help="folds to train (default: 0)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--epochs", type=positive_int, metavar="N", help="equal steps: of all (default: the preset)"
    )
    budget.add_argument(
        "--minutes", type=positive_float, metavar="M", help="equal time: of training a fold"
    )
    parser.add_argument("--iterations", type=positive_int, metavar="N", help="steps an epoch")
    parser.add_argument(
        "--learning-rate", type=positive_float, metavar="RATE", help="of all (default: the preset)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of all (default: 0)")
    add_device_option(parser)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"))
    _add_judging_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the estimated time and stop")
    parser.add_argument(
        "-o", dest="output", type=Path, metavar="OUT", help="folder (default: in the results)"
    )
    add_processes_option(parser)
    add_encoder_options(parser)
    add_root_options(parser)
    return parser


def _add_judging_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps",
        nargs="+",
        default=[],
        metavar="NAME=N,N",
        help="steps of the samplers to judge, for example flow=1,4,16 (default: as trained)",
    )
    parser.add_argument(
        "--step-size", type=share, metavar="S", help="of the sliding window (default: 0.5)"
    )
    parser.add_argument(
        "--slab",
        type=positive_int,
        metavar="N",
        help="judge all on the central N voxels along z, those with a sampler only there",
    )
    parser.add_argument("--convention", choices=CONVENTIONS, default=GDMNET, help="of the metrics")
    parser.add_argument(
        "--match-intensity",
        choices=MATCHES,
        help="fit gain >= 0 and offset to each target first (targets without a unit)",
    )
    parser.add_argument(
        "--judge-iterations",
        type=positive_int,
        metavar="N",
        help=f"steps of the judge's training (default: {ITERATIONS})",
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_compare."""
    args = build_parser().parse_args(argv)
    asked = Asked(
        folds=None if args.folds is None else tuple(dict.fromkeys(args.folds)),
        epochs=args.epochs,
        minutes=args.minutes,
        iterations=args.iterations,
        learning_rate=args.learning_rate,
        seed=args.seed,
        precision=args.precision,
        encoder=encoder_settings(args),
        step_size=args.step_size,
        judge_iterations=args.judge_iterations,
    )
    options = Options(
        objectives=args.objectives,
        steps=args.steps,
        slab=args.slab,
        device=args.device,
        dry_run=args.dry_run,
        scoring=ScoreOptions(
            args.convention,
            args.match_intensity,
            allow_constant=True,  # a model that has collapsed is a bad model, but no bad input
            n_processes=args.n_processes,
        ),
        asked=asked,
    )

    def body() -> int:
        roots = roots_from(args)
        name = folders.resolve_dataset(args.dataset, roots.preprocessed)
        home = args.output or roots.results / name / f"compare_{args.configuration}"
        study = run(name, args.configuration, roots, home, options)
        if study is not None:
            print(study_markdown(study))
            print(f"written: {home / COMPARE_HTML}, {COMPARE_MD}, {COMPARE_JSON}")
        return 0

    return guarded(body)


def run(
    dataset: str | int,
    configuration: str,
    roots: Roots,
    home: Path,
    options: Options | None = None,
) -> Study | None:
    """Compare methods on one dataset: train, predict and judge what is missing.

    Args:
        dataset: 501 or "Dataset501_Name"; planned and prepared.
        configuration: a name of its plan.
        roots: the folders; nothing is written there but into `home`.
        home: folder of the comparison: models, predictions, compare.json, .md and .html.
        options: see `Options`.

    Returns:
        What was found; None after a dry run.

    Raises:
        GdmnetError: an unknown dataset, configuration, fold, objective or option; a comparison
            that began with other settings; images that cannot be read.
    """
    options = options or Options()
    name = folders.resolve_dataset(dataset, roots.preprocessed)
    prepared = roots.preprocessed / name
    plan = codec.load(Plan, prepared / folders.PLAN_JSON)
    plan.configuration(configuration)
    variants = parse_variants(options.objectives or list(OPTIONS))
    settings = settle(options.asked, plan, configuration, roots, home, options.device)
    held_out = find_held_out(roots.raw / name, prepared / folders.SPLITS_JSON, settings.folds)
    bench = Bench(roots, home, plan, settings, held_out, options.device, options.slab)
    steps = estimates.look(bench, variants)
    most = {name: None if own is None else own.most for name, own in steps.items()}
    methods = make_methods(variants, parse_steps(options.steps), most)
    scopes = {m: _scopes(bench, has_steps=most[m.variant.name] is not None) for m in methods}
    left = estimates.estimate(bench, steps, scopes)
    device = str(find_device(options.device))
    print(estimates.told(left, device), flush=True)
    if options.dry_run:
        return None
    codec.save(settings, home / SETTINGS_JSON)
    lengths = {one.name: one.length for one in left if one.n_folds}
    if any(bench.job(v, settings.folds[0]).run.encoder for v in variants if v.name in lengths):
        work.train_encoders(bench)
    for variant in variants:
        if variant.name in lengths:
            print(f"training {variant.name}", flush=True)
            work.train_variant(bench, variant, lengths[variant.name])
    for method in methods:
        for scope in scopes[method]:
            if not work.is_predicted(bench, method, scope):
                print(f"predicting {method.name} ({scope})", flush=True)
                work.predict(bench, method, scope)
    study = make_study(bench, scopes, options.scoring, device)
    codec.save(study, home / COMPARE_JSON)
    codec.write_text(home / COMPARE_MD, study_markdown(study))
    page = study_page(study, make_pictures(bench, study, scopes))
    codec.write_text(home / COMPARE_HTML, page)
    return study


def _scopes(bench: Bench, *, has_steps: bool) -> tuple[str, ...]:
    """What a method is judged on: with a slab, whole volumes only of one-step methods."""
    if bench.slab is None:
        return (VOLUME,)
    return (SLAB,) if has_steps else (SLAB, VOLUME)
