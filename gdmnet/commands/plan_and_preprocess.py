"""gdm_plan_and_preprocess: check a raw dataset, measure it, plan, and prepare its cases."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from gdmnet import codec, files, folders
from gdmnet.cluster import chosen_part
from gdmnet.commands.terminal import CommandParser, guarded, new_parser, roots_from
from gdmnet.errors import DatasetError, PlanError
from gdmnet.folders import Roots
from gdmnet.parallel import map_cases
from gdmnet.plan import BiasCorrection, Configuration, Fingerprint, Plan
from gdmnet.planning.memory import PRESETS, choose_preset
from gdmnet.settings import Settings, add_settings, given_settings, setting
from gdmnet.table import first_names

if TYPE_CHECKING:
    from gdmnet.data.case import CaseFiles
    from gdmnet.data.raw import Description


@dataclasses.dataclass(frozen=True)
class PlanOptions(Settings):
    """How a dataset is planned and prepared; None leaves it to the plan or the machine."""

    configurations: tuple[str, ...] | None = setting(
        None, "prepare only these", flag="-c", metavar="NAME"
    )
    preset: str | None = setting(
        None,
        "size of network and patch (default: by the device); cpu is trained for 80 epochs of 50"
        " steps, the others for 400 of 250",
        choices=tuple(PRESETS),
    )
    memory_gb: float | None = setting(
        None,
        "GB to plan for (default: this machine's GPU's, at most 24; else 8)",
        above=0,
        flag="--memory",
    )
    bias_correction: str | None = setting(
        None,
        "of sources that are no CT, in training and at prediction (default: none)",
        choices=get_args(BiasCorrection),
    )
    dry_run: bool = setting(False, "print the plan as a table and write nothing")
    replan: bool = setting(False, "make plan.json anew although there is one")
    overwrite: bool = setting(False, "prepare finished cases once more")
    check: bool = setting(True, "skip the integrity check (not advised)")
    num_parts: int | None = setting(
        None,
        "processes that share the preparation (default: those of srun or of a SLURM array)",
        least=1,
    )
    part_id: int | None = setting(
        None, "which part this one does, from 0 to N - 1", least=0, metavar="K"
    )
    n_processes: int = setting(1, "worker processes", least=1, flag="-np")


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", "example:\n  gdm_plan_and_preprocess 501")
    parser.add_dataset_arguments("dataset", required=1, several=True)
    names = [field.name for field in dataclasses.fields(PlanOptions)]
    add_settings(parser, PlanOptions, names[:-1])
    parser.add_shared_options()
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_plan_and_preprocess."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        roots = roots_from(args)
        for dataset in args.dataset:
            run(dataset, roots, PlanOptions(**given_settings(args, PlanOptions)))
        return 0

    return guarded(body)


def run(dataset: str | int, roots: Roots, options: PlanOptions | None = None) -> Plan:
    """Check, measure, plan and prepare one dataset.

    Args:
        dataset: 501 or "Dataset501_Name".
        roots: the folders.
        options: see `PlanOptions`.

    Returns:
        The plan that was made or found.

    Raises:
        BusyError: another process prepares this dataset.
        DatasetError: the raw dataset is not sound; all complaints are in the text.
        PlanError: an existing plan contradicts the options.
    """
    options = options or PlanOptions()
    name = folders.resolve_dataset(dataset, roots.raw)
    raw, folder = roots.raw / name, roots.preprocessed / name
    description, cases = _sound_cases(raw, options)
    part, n_parts = chosen_part(options.num_parts, options.part_id)
    if options.dry_run:
        return _planned(raw, folder, description, cases, options)[0]
    if n_parts == 1:
        with files.lock(folder):
            plan, fingerprint = _planned(raw, folder, description, cases, options)
            _prepare_all(cases, fingerprint, plan, folder, options)
    else:
        plan, fingerprint = _shared_plan(raw, folder, description, cases, options)
        own = cases[part::n_parts]
        _refuse_changed(own, fingerprint, folder)
        with files.lock(folder / f"part_{part}_of_{n_parts}"):
            _prepare_all(own, fingerprint, plan, folder, options)
    print(f"ready: gdm_train {name[7:10]} {(options.configurations or [*plan.configurations])[0]}")
    return plan


def _planned(
    raw: Path,
    folder: Path,
    description: Description,
    cases: Sequence[CaseFiles],
    options: PlanOptions,
) -> tuple[Plan, Fingerprint]:
    """The plan and what it was made from, printed and, but for a dry run, written."""
    from gdmnet.data.splits import choose_splits
    from gdmnet.planning.table import plan_table

    path = folder / folders.PLAN_JSON
    existing = codec.load(Plan, path) if path.is_file() else None
    is_kept = existing is not None and not options.replan
    correction = options.bias_correction or (_measured_with(folder) if is_kept else "none")
    fingerprint = _measure(raw.name, description, cases, correction, options.n_processes)
    plan = _plan(fingerprint, description, folder, existing, options)
    for configuration in options.configurations or ():
        plan.configuration(configuration)  # an unknown one is refused before anything is written
    if options.dry_run or plan is not existing:
        print(plan_table(plan))
    if not options.dry_run:
        splits = choose_splits([case.identifier for case in cases], raw / folders.SPLITS_JSON)
        codec.save(fingerprint, folder / folders.FINGERPRINT_JSON)
        codec.save(plan, path)
        codec.save(splits, folder / folders.SPLITS_JSON)
    return plan, fingerprint


def _shared_plan(
    raw: Path,
    folder: Path,
    description: Description,
    cases: Sequence[CaseFiles],
    options: PlanOptions,
) -> tuple[Plan, Fingerprint]:
    """The plan of several processes: the first one makes it, the others wait for that.

    Raises:
        PlanError: an option that would undo the others' work.
    """
    if options.replan or options.overwrite:
        raise PlanError(
            "--replan and --overwrite would undo what the other parts have done: run the command"
            " once without parts"
        )
    with files.lock_when_free(folder):
        if not (folder / folders.SPLITS_JSON).is_file():  # what is written last
            return _planned(raw, folder, description, cases, options)
    fingerprint = codec.load(Fingerprint, folder / folders.FINGERPRINT_JSON)
    return codec.load(Plan, folder / folders.PLAN_JSON), fingerprint


def _refuse_changed(cases: Sequence[CaseFiles], fingerprint: Fingerprint, folder: Path) -> None:
    """Refuse cases whose raw files are not those that the plan was made from."""
    known = {case.identifier: case.digests for case in fingerprint.cases}
    changed = [case.identifier for case in cases if known.get(case.identifier) != case.digests()]
    if changed:
        raise PlanError(
            f"{folder / folders.PLAN_JSON}: raw files have changed since it was made, of"
            f" {first_names(changed, 5)}; run the command once with --replan and without parts"
        )


def _sound_cases(raw: Path, options: PlanOptions) -> tuple[Description, list[CaseFiles]]:
    from gdmnet.data.check import require_sound
    from gdmnet.data.raw import read_description, training_cases

    if options.check:
        return require_sound(raw, n_processes=options.n_processes)
    description = read_description(raw)
    cases, complaints = training_cases(raw, description)
    if complaints:
        raise DatasetError(f"{raw}: {complaints[0].case}: {complaints[0].text}")
    return description, cases


def _measured_with(folder: Path) -> str:
    """The bias correction that was planned for; configurations edited by hand may differ."""
    path = folder / folders.FINGERPRINT_JSON
    return codec.load(Fingerprint, path).bias_correction if path.is_file() else "none"


def _measure(
    name: str,
    description: Description,
    cases: Sequence[CaseFiles],
    bias_correction: str,
    n_processes: int,
) -> Fingerprint:
    from gdmnet.planning.fingerprint import measure_case, summarise

    how: dict[str, Any] = {
        "channel_names": description.channel_names,
        "target_name": description.target_name,
        "bias_correction": bias_correction,
        "region": description.region,
    }
    measure = partial(measure_case, **how)
    measured = map_cases(measure, cases, n_processes=n_processes, title="fingerprint")
    return summarise(name, measured, **how)


def _plan(
    fingerprint: Fingerprint,
    description: Description,
    folder: Path,
    existing: Plan | None,
    options: PlanOptions,
) -> Plan:
    if existing is not None and not options.replan:
        _refuse_contradictions(existing, fingerprint, folder, options)
        print(f"{folder / folders.PLAN_JSON} is kept (--replan makes it anew)", file=sys.stderr)
        return existing
    from gdmnet.models.device import find_device, memory_gb  # torch only when a plan is made
    from gdmnet.planning.planner import PLANNED, make_plan

    device_gb = memory_gb(find_device())
    preset, memory, reason = choose_preset(options.preset, options.memory_gb, device_gb)
    plan = make_plan(
        fingerprint,
        file_ending=description.file_ending,
        preset=preset,
        memory_gb=memory,
        preset_reason=reason,
    )
    known = {} if existing is None else existing.configurations
    by_hand = {name: known[name] for name in known if name not in PLANNED}
    return dataclasses.replace(
        plan,
        configurations={**plan.configurations, **by_hand},
        source_series=description.source_series,
    )


def _refuse_contradictions(
    existing: Plan, fingerprint: Fingerprint, folder: Path, options: PlanOptions
) -> None:
    path, facts = folder / folders.PLAN_JSON, folder / folders.FINGERPRINT_JSON
    for option, wanted, made in (
        ("--preset", options.preset, existing.preset),
        ("--memory", options.memory_gb, existing.memory_gb),
        ("--bias-correction", options.bias_correction, _measured_with(folder)),
    ):
        if wanted not in (None, made):
            raise PlanError(
                f"{path} was made with {option} {made}; add --replan to plan anew with {wanted}"
            )
    if facts.is_file() and not _is_same(codec.load(Fingerprint, facts), fingerprint):
        raise PlanError(
            f"{path}: the raw dataset has changed since this plan was made; add --replan to plan"
            " anew (hand-made configurations are kept)"
        )


def _is_same(known: Fingerprint, found: Fingerprint) -> bool:
    """Whether nothing has changed; fingerprints of older versions know no digests of files."""
    if not any(case.digests for case in known.cases):
        cases = tuple(dataclasses.replace(case, digests={}) for case in found.cases)
        found = dataclasses.replace(found, cases=cases)
    return known == found


def _prepare_all(
    cases: Sequence[CaseFiles],
    fingerprint: Fingerprint,
    plan: Plan,
    folder: Path,
    options: PlanOptions,
) -> None:
    for configuration in map(plan.configuration, options.configurations or plan.configurations):
        _prepare(cases, fingerprint, configuration, folder / configuration.name, options)


def _prepare(
    cases: Sequence[CaseFiles],
    fingerprint: Fingerprint,
    configuration: Configuration,
    folder: Path,
    options: PlanOptions,
) -> None:
    """Prepare the cases that are not there yet, or were made of other files or by another plan."""
    from gdmnet.preprocessing import is_prepared, prepare_and_store

    files.sweep(folder)
    digests = {case.identifier: case.digests for case in fingerprint.cases}
    missing = [
        case
        for case in cases
        if options.overwrite
        or not is_prepared(folder, case.identifier, digests[case.identifier], configuration)
    ]
    if len(missing) < len(cases):
        n_done = len(cases) - len(missing)
        print(f"{configuration.name}: {n_done} of {len(cases)} cases are ready already")
    prepare = partial(prepare_and_store, configuration=configuration, folder=folder)
    map_cases(prepare, missing, n_processes=options.n_processes, title=configuration.name)
