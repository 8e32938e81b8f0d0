"""gdm_plan_and_preprocess: check a raw dataset, measure it, plan, and prepare its cases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from gdmnet import codec, files, folders
from gdmnet.cluster import chosen_part
from gdmnet.commands.terminal import CommandParser, command, new_parser, roots_from
from gdmnet.errors import DatasetError, PlanError
from gdmnet.folders import Roots
from gdmnet.parallel import map_cases
from gdmnet.plan import BiasCorrection, Fingerprint, Plan
from gdmnet.planning.memory import PRESETS, choose_preset
from gdmnet.settings import Settings, add_settings, setting, settings_from
from gdmnet.table import first_names

if TYPE_CHECKING:
    from gdmnet.data.case import CaseFiles
    from gdmnet.data.raw import Description


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class _RawDataset:
    """A raw dataset that is sound, and the folder that it is prepared in."""

    raw: Path
    folder: Path
    description: Description
    cases: Sequence[CaseFiles]

    @property
    def plan(self) -> Path:
        return self.folder / folders.PLAN_JSON

    @property
    def fingerprint(self) -> Path:
        return self.folder / folders.FINGERPRINT_JSON


def build_parser() -> CommandParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "", "example:\n  gdm_plan_and_preprocess 501")
    parser.add_dataset_arguments("dataset", required=1, several=True)
    add_settings(parser, PlanOptions, without=["n_processes"])
    parser.add_shared_options()
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_plan_and_preprocess."""
    roots = roots_from(args)
    for dataset in args.dataset:
        run(dataset, roots, settings_from(args, PlanOptions))
    return 0


def run(dataset: str | int, roots: Roots, options: PlanOptions | None = None) -> Plan:
    """Check, measure, plan and prepare one dataset, 501 or "Dataset501_Name".

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
    found = _RawDataset(raw, folder, *_sound_cases(raw, options))
    part, n_parts = chosen_part(options.num_parts, options.part_id)
    if options.dry_run:
        return _planned(found, options)[0]
    if n_parts == 1:
        with files.lock(folder):
            plan, fingerprint = _planned(found, options)
            _prepare_all(found, fingerprint, plan, options)
    else:
        plan, fingerprint = _shared_plan(found, options)
        own = replace(found, cases=found.cases[part::n_parts])
        _refuse_changed(own, fingerprint)
        with files.lock(folder / f"part_{part}_of_{n_parts}"):
            _prepare_all(own, fingerprint, plan, options)
    print(f"ready: gdm_train {name[7:10]} {(options.configurations or [*plan.configurations])[0]}")
    return plan


def _planned(dataset: _RawDataset, options: PlanOptions) -> tuple[Plan, Fingerprint]:
    """The plan and what it was made from, printed and, but for a dry run, written."""
    from gdmnet.data.splits import choose_splits
    from gdmnet.planning.table import plan_table

    existing = _plan_there(dataset.plan)
    known = None
    if existing is not None and not options.replan:
        if dataset.fingerprint.is_file():
            known = codec.load(Fingerprint, dataset.fingerprint)
        _refuse_contradictions(dataset, existing, known, options)
    correction = options.bias_correction or (known.bias_correction if known else "none")
    fingerprint = _measure(dataset, correction, options.n_processes)
    if existing is None or options.replan:
        plan = _new_plan(dataset, fingerprint, existing, options)
    else:
        plan = existing
        _refuse_changed_dataset(dataset, known, fingerprint)
        print(f"{dataset.plan} is kept (--replan makes it anew)", file=sys.stderr)
    for configuration in options.configurations or ():
        plan.configuration(configuration)  # an unknown one is refused before anything is written
    if options.dry_run or plan is not existing:
        print(plan_table(plan))
    if not options.dry_run:
        names = [case.identifier for case in dataset.cases]
        splits = choose_splits(names, dataset.raw / folders.SPLITS_JSON)
        made = [(fingerprint, dataset.fingerprint), (plan, dataset.plan)]
        # Killed between the two, the next call finds no plan or a changed dataset, and says so.
        for value, path in made if existing is None else reversed(made):
            codec.save(value, path)
        codec.save(splits, dataset.folder / folders.SPLITS_JSON)
    return plan, fingerprint


def _plan_there(path: Path) -> Plan | None:
    try:
        return codec.load(Plan, path) if path.is_file() else None
    except PlanError as problem:
        text = f"{problem}; to plan anew move it away: what was edited in it by hand goes with it"
        raise PlanError(text) from None


def _shared_plan(dataset: _RawDataset, options: PlanOptions) -> tuple[Plan, Fingerprint]:
    """The plan of several processes: the first one makes it, the others wait for that.

    Raises:
        PlanError: an option that would undo the others' work, or that contradicts the plan.
    """
    if options.replan or options.overwrite:
        raise PlanError(
            "--replan and --overwrite would undo what the other parts have done: run the command"
            " once without parts"
        )
    with files.lock_when_free(dataset.folder):
        if not (dataset.folder / folders.SPLITS_JSON).is_file():  # what is written last
            return _planned(dataset, options)
    plan, known = codec.load(Plan, dataset.plan), codec.load(Fingerprint, dataset.fingerprint)
    _refuse_contradictions(dataset, plan, known, options)
    return plan, known


def _refuse_changed(dataset: _RawDataset, fingerprint: Fingerprint) -> None:
    """Refuse cases whose raw files are not those that the plan was made from."""
    known = {case.identifier: case.digests for case in fingerprint.cases}
    changed = [c.identifier for c in dataset.cases if known.get(c.identifier) != c.digests()]
    if changed:
        raise PlanError(
            f"{dataset.plan}: raw files have changed since it was made, of"
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


def _measure(dataset: _RawDataset, bias_correction: str, n_processes: int) -> Fingerprint:
    from gdmnet.planning.fingerprint import measure_case, summarise

    description = dataset.description
    how: dict[str, Any] = {
        "channel_names": description.channel_names,
        "target_name": description.target_name,
        "bias_correction": bias_correction,
        "region": description.region,
    }
    measure = partial(measure_case, **how)
    measured = map_cases(measure, dataset.cases, n_processes=n_processes, title="fingerprint")
    return summarise(dataset.raw.name, measured, **how)


def _new_plan(
    dataset: _RawDataset, fingerprint: Fingerprint, existing: Plan | None, options: PlanOptions
) -> Plan:
    """A plan by what was measured; hand-made configurations are kept."""
    from gdmnet.models.device import find_device, memory_gb  # torch only when a plan is made
    from gdmnet.planning.planner import PLANNED, make_plan

    device_gb = memory_gb(find_device())
    preset, memory, reason = choose_preset(options.preset, options.memory_gb, device_gb)
    ending = dataset.description.file_ending
    plan = make_plan(
        fingerprint, file_ending=ending, preset=preset, memory_gb=memory, preset_reason=reason
    )
    known = {} if existing is None else existing.configurations
    by_hand = {name: known[name] for name in known if name not in PLANNED}
    configurations, series = plan.configurations | by_hand, dataset.description.source_series
    return replace(plan, configurations=configurations, source_series=series)


def _refuse_contradictions(
    dataset: _RawDataset, existing: Plan, known: Fingerprint | None, options: PlanOptions
) -> None:
    for option, wanted, made in (
        ("--preset", options.preset, existing.preset),
        ("--memory", options.memory_gb, existing.memory_gb),
        ("--bias-correction", options.bias_correction, known.bias_correction if known else "none"),
    ):
        if wanted not in (None, made):
            again = f"add --replan to plan anew with {wanted}"
            raise PlanError(f"{dataset.plan} was made with {option} {made}; {again}")


def _refuse_changed_dataset(
    dataset: _RawDataset, known: Fingerprint | None, found: Fingerprint
) -> None:
    if known is not None and not any(case.digests for case in known.cases):  # of an older version
        found = replace(found, cases=tuple(replace(case, digests={}) for case in found.cases))
    if known not in (None, found):
        raise PlanError(
            f"{dataset.plan}: the raw dataset has changed since this plan was made; add --replan"
            " to plan anew (hand-made configurations are kept)"
        )


def _prepare_all(
    dataset: _RawDataset, fingerprint: Fingerprint, plan: Plan, options: PlanOptions
) -> None:
    """Prepare the cases that are not there yet, or were made of other files or by another plan."""
    from gdmnet.preprocessing import is_prepared, prepare_and_store

    cases, digests = dataset.cases, {case.identifier: case.digests for case in fingerprint.cases}
    for name in options.configurations or plan.configurations:
        configuration, folder = plan.configuration(name), dataset.folder / name
        files.sweep(folder)
        missing = [
            case
            for case in cases
            if options.overwrite
            or not is_prepared(folder, case.identifier, digests[case.identifier], configuration)
        ]
        if len(missing) < len(cases):
            n_done = len(cases) - len(missing)
            print(f"{name}: {n_done} of {len(cases)} cases are ready already")
        prepare = partial(prepare_and_store, configuration=configuration, folder=folder)
        map_cases(prepare, missing, n_processes=options.n_processes, title=name)
