"""Which trained model a command means: the one there is, or the one that was named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet import folders
from gdmnet.errors import CheckpointError, SettingError
from gdmnet.settings import Settings, setting
from gdmnet.table import first_names


@dataclass(frozen=True)
class ModelChoice(Settings):
    """Which model: its folder, or what narrows the choice under the results; None is any."""

    dataset: str | None = setting(None, "501 or Dataset501_Name")
    configuration: str | None = setting(None, "3d_fullres, 3d_lowres, ...")
    objective: str | None = setting(None, "gdm, regression, ...")
    folds: tuple[str, ...] | None = setting(
        None,
        "folds to combine, or all (default: every finished numeric fold)",
        flag="-f",
        metavar="FOLD",
    )
    model: Path | None = setting(None, "a model's folder", flag="-m", metavar="MODEL")


def find_model(choice: ModelChoice, results: Path) -> Path:
    """The folder of the model that is meant: the one named, or the one finished model that fits.

    All folds that were named must be finished.

    Raises:
        DatasetError: no such dataset in the results.
        CheckpointError: no finished model fits, or several do; both are listed.
        SettingError: a folder is named, and something that chooses among models besides.
    """
    if choice.model is not None:
        others = {"-d": choice.dataset, "-c": choice.configuration, "--objective": choice.objective}
        if given := [word for word, value in others.items() if value is not None]:
            raise SettingError(f"-m names the model: leave {' and '.join(given)} out")
        return choice.model
    dataset = choice.dataset and folders.resolve_dataset(choice.dataset, results)
    finished = list(folders.finished_models(results))
    fitting = [
        model
        for model in finished
        if dataset in (None, model.dataset)
        and choice.configuration in (None, model.configuration)
        and choice.objective in (None, model.objective)
        and set(choice.folds or ()) <= set(model.folds)
    ]
    if len(fitting) == 1:
        return fitting[0].folder
    if fitting:
        raise CheckpointError(f"several finished models fit; choose one:{_listed(fitting)}")
    if finished:
        raise CheckpointError(
            f"{results}: no finished model fits these options; there are:{_listed(finished)}"
        )
    raise CheckpointError(f"{results}: no finished model{_unfinished(results)}")


def choose_folds(folder: Path, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The folds of a model folder to average: those wanted, else all finished numeric ones.

    Raises:
        CheckpointError: no model folder, an unknown or unfinished fold, or nothing is finished.
    """
    if not (folder / folders.PLAN_JSON).is_file():
        inner = (folder.parent / folders.PLAN_JSON).is_file()
        models = sorted(path.parent.name for path in folder.glob(f"*/{folders.PLAN_JSON}"))
        advice = (
            f"give one of its models: {', '.join(models)}" if models else "give a model's folder"
        )
        advice = f"give {folder.parent} and the fold by -f" if inner else advice
        raise CheckpointError(f"{folder}: not a model folder (no {folders.PLAN_JSON}); {advice}")
    finished = folders.finished_folds(folder)
    there = f"finished are: {', '.join(finished) or 'none'}"
    for fold in wanted or ():
        if fold not in finished:
            begun = folders.fold_folder(folder, fold).is_dir()
            state = "not finished" if begun else "not trained"
            raise CheckpointError(f"{folder}: fold {fold} is {state} ({there}); train it first")
    if wanted:
        return tuple(dict.fromkeys(wanted))
    numeric = tuple(fold for fold in finished if fold.isdigit())
    if numeric:
        return numeric
    advice = "take it by -f all" if "all" in finished else "finish a training with gdm_train"
    raise CheckpointError(f"{folder}: no finished fold of a cross-validation ({there}); {advice}")


def _listed(models: Sequence[folders.FinishedModel]) -> str:
    """A line each with the options that select the model."""
    return "".join(
        f"\n  -d {int(model.dataset[7:10])} -c {model.configuration} --objective {model.objective}"
        f"  (folds {', '.join(model.folds)}: {model.folder})"
        for model in models
    )


def _unfinished(results: Path) -> str:
    begun = sorted(path.parent for path in results.glob(f"*/*__*/fold_*/{folders.RUN_JSON}"))
    if not begun:
        return "; train one with gdm_train, or name its place by --results or -m"
    names = first_names([str(path.relative_to(results)) for path in begun], 5)
    return f"; unfinished: {names}: go on with gdm_train --continue"
