"""gdm_plan_and_preprocess: check a raw dataset, measure it, plan, and prepare its cases."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from functools import partial
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.commands.terminal import (
    add_processes_option,
    add_root_options,
    guarded,
    new_parser,
    roots_from,
)
from gdmnet.data.case import CaseFiles
from gdmnet.data.check import require_sound
from gdmnet.data.raw import Description, read_description, training_cases
from gdmnet.data.splits import choose_splits
from gdmnet.data.store import is_stored
from gdmnet.errors import DatasetError, PlanError
from gdmnet.folders import Roots
from gdmnet.parallel import map_cases
from gdmnet.plan import BiasCorrection, Configuration, Fingerprint, Plan
from gdmnet.planning.fingerprint import measure_case, summarise
from gdmnet.planning.planner import PLANNED, PRESETS, make_plan
from gdmnet.planning.table import plan_table
from gdmnet.preprocessing import ensure_folder, prepare_and_store


@dataclasses.dataclass(frozen=True)
class Options:
    """What `run` may be told; None leaves a choice to the plan or the machine."""

    configurations: tuple[str, ...] | None = None
    preset: str | None = None
    memory_gb: float | None = None
    bias_correction: BiasCorrection | None = None
    n_processes: int = 1
    dry_run: bool = False
    replan: bool = False
    overwrite: bool = False
    check: bool = True


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", "example:\n  gdm_plan_and_preprocess -d 501")
    parser.add_argument(
        "-d", dest="datasets", nargs="+", required=True, metavar="ID", help="501 or Dataset501_Name"
    )
    parser.add_argument(
        "-c", dest="configurations", nargs="+", metavar="NAME", help="prepare only these"
    )
    parser.add_argument(
        "--preset", choices=list(PRESETS), help="size of network and patch (default: by the device)"
    )
    parser.add_argument(
        "--memory",
        dest="memory_gb",
        type=_positive_float,
        metavar="GB",
        help="memory of the training device (default: this machine's GPU, else 8)",
    )
    parser.add_argument(
        "--bias-correction",
        choices=typing.get_args(BiasCorrection),
        help="of sources that are no CT; kept in the plan, so that prediction does it, too"
        " (default: none)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan as a table and write nothing"
    )
    parser.add_argument(
        "--replan", action="store_true", help="make plan.json anew although there is one"
    )
    parser.add_argument("--overwrite", action="store_true", help="prepare finished cases once more")
    parser.add_argument(
        "--no-check", action="store_true", help="skip the integrity check (not advised)"
    )
    add_processes_option(parser)
    add_root_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_plan_and_preprocess."""
    args = build_parser().parse_args(argv)
    options = Options(
        configurations=tuple(args.configurations) if args.configurations else None,
        preset=args.preset,
        memory_gb=args.memory_gb,
        bias_correction=args.bias_correction,
        n_processes=args.n_processes,
        dry_run=args.dry_run,
        replan=args.replan,
        overwrite=args.overwrite,
        check=not args.no_check,
    )

    def body() -> int:
        roots = roots_from(args)
        for dataset in args.datasets:
            run(dataset, roots, options)
        return 0

    return guarded(body)


def run(dataset: str | int, roots: Roots, options: Options | None = None) -> Plan:
    """Check, measure, plan and prepare one dataset.

    Args:
        dataset: 501 or "Dataset501_Name".
        roots: the folders.
        options: see `Options`.

    Returns:
        The plan that was made or found.

    Raises:
        DatasetError: the raw dataset is not sound; all complaints are in the text.
        PlanError: an existing plan contradicts the options.
    """
    options = options or Options()
    name = folders.resolve_dataset(dataset, roots.raw)
    raw = roots.raw / name
    description, cases = _sound_cases(raw, options)
    folder = roots.preprocessed / name
    path = folder / folders.PLAN_JSON
    existing = codec.load(Plan, path) if path.is_file() else None
    is_kept = existing is not None and not options.replan
    correction = options.bias_correction or (_measured_with(folder) if is_kept else "none")
    fingerprint = _measure(name, description, cases, correction, options.n_processes)
    plan = _plan(fingerprint, description, folder, existing, options)
    print(plan_table(plan))
    chosen = [plan.configuration(name) for name in options.configurations or plan.configurations]
    if options.dry_run:
        return plan
    codec.save(fingerprint, folder / folders.FINGERPRINT_JSON)
    codec.save(plan, folder / folders.PLAN_JSON)
    codec.save(
        choose_splits([case.identifier for case in cases], raw / folders.SPLITS_JSON),
        folder / folders.SPLITS_JSON,
    )
    for configuration in chosen:
        _prepare(cases, configuration, folder / configuration.name, options)
    print(f"ready: gdm_train {name[7:10]} {chosen[0].name}")
    return plan


def _sound_cases(raw: Path, options: Options) -> tuple[Description, list[CaseFiles]]:
    if options.check:
        return require_sound(raw, n_processes=options.n_processes)
    description = read_description(raw)
    cases, complaints = training_cases(raw, description)
    if complaints:
        raise DatasetError(f"{raw}: {complaints[0].case}: {complaints[0].text}")
    return description, cases


def _measured_with(folder: Path) -> BiasCorrection:
    """The bias correction that was planned for; configurations edited by hand may differ."""
    path = folder / folders.FINGERPRINT_JSON
    return codec.load(Fingerprint, path).bias_correction if path.is_file() else "none"


def _measure(
    name: str,
    description: Description,
    cases: list[CaseFiles],
    bias_correction: BiasCorrection,
    n_processes: int,
) -> Fingerprint:
    measure = partial(
        measure_case,
        channel_names=description.channel_names,
        target_name=description.target_name,
        bias_correction=bias_correction,
        region=description.region,
    )
    measured = map_cases(
        measure,
        cases,
        n_processes=n_processes,
        name=lambda case: case.identifier,
        title="fingerprint",
    )
    return summarise(
        name,
        measured,
        description.channel_names,
        description.target_name,
        bias_correction,
        description.region,
    )


def _plan(
    fingerprint: Fingerprint,
    description: Description,
    folder: Path,
    existing: Plan | None,
    options: Options,
) -> Plan:
    if existing is not None and not options.replan:
        _refuse_contradictions(existing, fingerprint, folder, options)
        print(f"{folder / folders.PLAN_JSON} is kept (--replan makes it anew)", file=sys.stderr)
        return existing
    preset, memory_gb, reason = _size(options)
    plan = make_plan(
        fingerprint,
        file_ending=description.file_ending,
        preset=preset,
        memory_gb=memory_gb,
        preset_reason=reason,
    )
    if existing is None:
        return plan
    by_hand = {k: v for k, v in existing.configurations.items() if k not in PLANNED}
    return dataclasses.replace(plan, configurations={**plan.configurations, **by_hand})


def _refuse_contradictions(
    existing: Plan, fingerprint: Fingerprint, folder: Path, options: Options
) -> None:
    path = folder / folders.PLAN_JSON
    if options.preset not in (None, existing.preset):
        raise PlanError(
            f"{path} was made with --preset {existing.preset}; add --replan to plan anew with"
            f" {options.preset}"
        )
    if options.memory_gb not in (None, existing.memory_gb):
        raise PlanError(
            f"{path} was made with --memory {existing.memory_gb:g}; add --replan to plan anew"
        )
    if options.bias_correction not in (None, _measured_with(folder)):
        raise PlanError(
            f"{path} was made with --bias-correction {_measured_with(folder)}; add --replan to plan"
            f" anew with {options.bias_correction}"
        )
    facts = folder / folders.FINGERPRINT_JSON
    if facts.is_file() and codec.load(Fingerprint, facts) != fingerprint:
        raise PlanError(
            f"{path}: the raw dataset has changed since this plan was made; add --replan to plan"
            " anew (hand-made configurations are kept)"
        )


def _size(options: Options) -> tuple[str, float, str]:
    """Preset, memory in GB, and why."""
    from gdmnet.models.device import find_device, memory_gb  # torch only when a plan is made

    device_gb = memory_gb(find_device())
    memory = options.memory_gb or device_gb or 8.0
    if options.preset:
        return options.preset, memory, f"--preset {options.preset} was given"
    if device_gb is None:
        return "cpu", memory, "no CUDA device on this machine, so that a laptop can train it"
    preset = "S" if memory < 7.5 else "M" if memory < 20 else "L"
    source = "--memory" if options.memory_gb else "the CUDA device"
    return preset, memory, f"{memory:.1f} GB by {source}"


def _prepare(
    cases: list[CaseFiles], configuration: Configuration, folder: Path, options: Options
) -> None:
    ensure_folder(folder, configuration, overwrite=options.overwrite)
    missing = [case for case in cases if not is_stored(folder, case.identifier)]
    done = len(cases) - len(missing)
    if done:
        print(f"{configuration.name}: {done} of {len(cases)} cases are ready already")
    map_cases(
        partial(prepare_and_store, configuration=configuration, folder=folder),
        missing,
        n_processes=options.n_processes,
        name=lambda case: case.identifier,
        title=configuration.name,
    )


def _positive_float(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value
