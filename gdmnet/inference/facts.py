"""What a model folder tells about a model, and the same without the names of its cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gdmnet import codec, folders
from gdmnet.metrics.summary import Summary
from gdmnet.models.run import read_run
from gdmnet.plan import Fingerprint, Plan, Run


@dataclass(frozen=True)
class Facts:
    """Everything that is told about a model, with the names of its cases replaced.

    Attributes:
        plan: of the training set.
        runs: by fold.
        summaries: of the folds' validation, where there was one.
        fingerprint: of the training set, where the model folder has it.
    """

    plan: Plan
    runs: dict[str, Run]
    summaries: dict[str, Summary]
    fingerprint: Fingerprint | None


def read_facts(folder: Path, folds: Sequence[str]) -> Facts:
    """What a model folder tells about itself, names of cases included.

    Raises:
        PlanError: a file is missing, damaged or of another version.
    """
    homes = {fold: folders.fold_folder(folder, fold) for fold in folds}
    fingerprint = folder / folders.FINGERPRINT_JSON
    return Facts(
        plan=codec.load(Plan, folder / folders.PLAN_JSON),
        runs={fold: read_run(home) for fold, home in homes.items()},
        summaries={
            fold: codec.load(Summary, home / folders.SUMMARY_JSON)
            for fold, home in homes.items()
            if (home / folders.SUMMARY_JSON).is_file()
        },
        fingerprint=codec.load(Fingerprint, fingerprint) if fingerprint.is_file() else None,
    )


def anonymised(facts: Facts) -> Facts:
    """The same with cases called case_001, case_002, ..., and without the names of folders."""
    names = {
        *(name for run in facts.runs.values() for name in run.training_cases),
        *(name for run in facts.runs.values() for name in run.validation_cases),
        *(name for summary in facts.summaries.values() for name in summary.cases),
        *(case.identifier for case in (facts.fingerprint.cases if facts.fingerprint else ())),
    }
    alias = {name: f"case_{number:03d}" for number, name in enumerate(sorted(names), 1)}

    def renamed(cases: Iterable[str]) -> tuple[str, ...]:
        return tuple(alias[name] for name in cases)

    return Facts(
        plan=facts.plan,
        runs={
            fold: replace(
                run,
                training_cases=renamed(run.training_cases),
                validation_cases=renamed(run.validation_cases),
                encoder=run.encoder and _without_folders(run.encoder),
                encoder_options={k: _without_folders(v) for k, v in run.encoder_options.items()},
            )
            for fold, run in facts.runs.items()
        },
        summaries={
            fold: replace(summary, cases={alias[n]: v for n, v in summary.cases.items()}, failed={})
            for fold, summary in facts.summaries.items()
        },
        fingerprint=facts.fingerprint
        and replace(
            facts.fingerprint,
            cases=tuple(
                replace(case, identifier=alias[case.identifier]) for case in facts.fingerprint.cases
            ),
        ),
    )


def _without_folders(value: Any) -> Any:  # noqa: ANN401 (options are JSON values)
    """An encoder's file is called by its own name: "nnunet:/home/me/model" is "nnunet:model"."""
    if not isinstance(value, str):
        return value
    kind, colon, path = value.rpartition(":")
    return f"{kind}{colon}{Path(path).name}"
