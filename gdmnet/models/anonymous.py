"""What a model's folder says, without the names of its cases and of anybody's folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gdmnet.metrics.summary import Summary
from gdmnet.models.folder import ModelFolder


def anonymised(
    model: ModelFolder, summaries: Mapping[str, Summary]
) -> tuple[ModelFolder, dict[str, Summary]]:
    """The same with cases called case_001, case_002, ..., in the order of their names.

    Args:
        model: plan, runs and fingerprint.
        summaries: of the folds' validation, by fold.
    """
    described = () if model.fingerprint is None else model.fingerprint.cases
    names = {case.identifier for case in described}
    for run in model.runs.values():
        names.update(run.training_cases, run.validation_cases)
    for summary in summaries.values():
        names.update(summary.cases)
    alias = {name: f"case_{number:03d}" for number, name in enumerate(sorted(names), 1)}

    def renamed(cases: Iterable[str]) -> tuple[str, ...]:
        return tuple(alias[name] for name in cases)

    runs = {
        fold: replace(
            run,
            training_cases=renamed(run.training_cases),
            validation_cases=renamed(run.validation_cases),
            encoder=_without_folders(run.encoder),
            encoder_options={k: _without_folders(v) for k, v in run.encoder_options.items()},
        )
        for fold, run in model.runs.items()
    }
    cases = tuple(replace(c, identifier=alias[c.identifier], digests={}) for c in described)
    fingerprint = model.fingerprint and replace(model.fingerprint, cases=cases)
    return replace(model, runs=runs, fingerprint=fingerprint), {
        fold: replace(summary, cases={alias[n]: v for n, v in summary.cases.items()}, failed={})
        for fold, summary in summaries.items()
    }


def _without_folders(value: Any) -> Any:  # noqa: ANN401 (options are JSON values)
    """An encoder's file is called by its own name: "nnunet:/home/me/model" is "nnunet:model"."""
    if not isinstance(value, str):
        return value
    kind, colon, path = value.rpartition(":")
    return f"{kind}{colon}{Path(path).name}"
