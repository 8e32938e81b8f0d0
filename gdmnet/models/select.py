"""Which trained model a command means: the one there is, or the one that was named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet import folders
from gdmnet.errors import CheckpointError


@dataclass(frozen=True)
class Model:
    """A trained model in the results: where it lies and which of its folds are finished."""

    dataset: str
    objective: str
    configuration: str
    folder: Path
    folds: tuple[str, ...]

    @property
    def options(self) -> str:
        """The options of gdm_predict that select this model."""
        number = int(self.dataset[7:10])
        return f"-d {number} -c {self.configuration} --objective {self.objective}"


def find_model(
    results: Path,
    *,
    dataset: str | None = None,
    configuration: str | None = None,
    objective: str | None = None,
    folds: Sequence[str] | None = None,
) -> Model:
    """The one finished model of the results that fits what was named.

    Args:
        results: the root folder of the trained models.
        dataset: 501 or "Dataset501_Name"; None is any.
        configuration: None is any.
        objective: None is any.
        folds: all of these must be finished; None is any.

    Raises:
        DatasetError: no such dataset in the results.
        CheckpointError: no finished model fits, or several do; both are listed.
    """
    name = None if dataset is None else folders.resolve_dataset(dataset, results)
    finished = [Model(*found, _folds(found[3])) for found in folders.finished_models(results)]
    fitting = [
        model
        for model in finished
        if name in (None, model.dataset)
        and configuration in (None, model.configuration)
        and objective in (None, model.objective)
        and set(folds or ()) <= set(model.folds)
    ]
    if len(fitting) == 1:
        return fitting[0]
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
        advice = f"give {folder.parent} and the fold by -f" if inner else "give a model's folder"
        raise CheckpointError(f"{folder}: not a model folder (no {folders.PLAN_JSON}); {advice}")
    finished = _folds(folder)
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


def _folds(folder: Path) -> tuple[str, ...]:
    return tuple(folders.finished_folds(folder))


def _listed(models: Sequence[Model]) -> str:
    return "".join(f"\n  {m.options}  (folds {', '.join(m.folds)}: {m.folder})" for m in models)


def _unfinished(results: Path) -> str:
    begun = sorted(path.parent for path in results.glob(f"*/*__*/fold_*/{folders.RUN_JSON}"))
    if not begun:
        return "; train one with gdm_train, or name its place by --results or -m"
    names = ", ".join(str(path.relative_to(results)) for path in begun[:5])
    more = f" and {len(begun) - 5} more" if len(begun) > 5 else ""
    return f"; unfinished: {names}{more}: go on with gdm_train --continue"
