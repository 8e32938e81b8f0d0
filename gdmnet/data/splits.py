"""Which cases train and which validate: cross-validation folds, the user's own, or all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gdmnet.codec import read_json
from gdmnet.errors import DatasetError

ALL = "all"
_N_FOLDS = 5
_FORM = 'write [{"train": ["case_01", ...], "val": ["case_02", ...]}, ...]'


@dataclass(frozen=True)
class Split:
    """One fold: case names, sorted."""

    training: tuple[str, ...]
    validation: tuple[str, ...]

    @property
    def validates_on_training(self) -> bool:
        """True if validation metrics say nothing about new patients; reports must tell."""
        return self.training == self.validation


def make_splits(identifiers: Sequence[str], *, seed: int = 12345) -> list[Split]:
    """The same folds as nnU-Net makes: k-fold over the sorted, shuffled case names.

    The first n % k folds validate on one case more than the others (scikit-learn's KFold). With
    fewer cases than folds every case is left out once; a single case both trains and validates.

    Raises:
        ValueError: no case.
    """
    names = sorted(identifiers)
    if not names:
        raise ValueError("no case to split")
    if len(names) == 1:
        return [Split(tuple(names), tuple(names))]
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)  # the legacy generator, because KFold draws from it
    held_out = [{names[i] for i in c} for c in np.array_split(order, min(_N_FOLDS, len(names)))]
    return [Split(tuple(sorted(set(names) - own)), tuple(sorted(own))) for own in held_out]


def choose_splits(identifiers: Sequence[str], path: Path) -> list[dict[str, list[str]]]:
    """The folds of a training set as JSON values: the user's own file where it exists, else made.

    Raises:
        DatasetError: the user's file is broken.
    """
    splits = read_splits(path, identifiers) if path.is_file() else make_splits(identifiers)
    return [{"train": list(split.training), "val": list(split.validation)} for split in splits]


def read_splits(path: Path, identifiers: Collection[str] | None = None) -> list[Split]:
    """The folds of a splits_final.json: [{"train": [names], "val": [names]}, ...].

    Only `identifiers` may be named; None does not look.

    Raises:
        DatasetError: the file is broken, or the first thing that `split_complaints` finds.
    """
    data = read_json(path, DatasetError)
    complaints = split_complaints(data, identifiers)
    if complaints:
        raise DatasetError(f"{path}: {complaints[0]}")
    return [Split(tuple(sorted(fold["train"])), tuple(sorted(fold["val"]))) for fold in data]


def split_for(fold: str, path: Path) -> Split:
    """The split of a splits_final.json's fold "0", "1", ... or "all": every case in both parts.

    Raises:
        DatasetError: no such fold, or a missing or broken file.
    """
    splits = read_splits(path)
    if fold == ALL:
        names = {name for split in splits for name in (*split.training, *split.validation)}
        return Split(tuple(sorted(names)), tuple(sorted(names)))
    if not fold.isdecimal() or int(fold) >= len(splits):
        last = f"0 to {len(splits) - 1}" if len(splits) > 1 else "0"
        raise DatasetError(f"fold {fold}: {path} has no such fold; choose {last} or all")
    return splits[int(fold)]


def split_complaints(data: object, identifiers: Collection[str] | None = None) -> list[str]:
    """All that is wrong with the JSON values of a splits_final.json, fold by fold."""
    if not isinstance(data, list) or not data:
        return [f"expected a list of folds; {_FORM}"]
    return [
        f"fold {number}{text}"
        for number, fold in enumerate(data)
        for text in _fold_complaints(fold, identifiers)
    ]


def _fold_complaints(fold: object, identifiers: Collection[str] | None) -> list[str]:
    if not isinstance(fold, dict) or set(fold) != {"train", "val"}:
        return [f" must have the keys train and val only; {_FORM}"]
    complaints = [
        f", {key}: {text}"
        for key in ("train", "val")
        for text in _name_complaints(fold[key], identifiers)
    ]
    # Equal lists are a decision (too few cases to hold any out); a partial overlap is a mistake.
    if not complaints and set(fold["train"]) != set(fold["val"]):
        both = sorted(set(fold["train"]) & set(fold["val"]))
        complaints += [f": {', '.join(both)} in train and in val; keep one"] if both else []
    return complaints


def _name_complaints(names: object, identifiers: Collection[str] | None) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ["expected a list of case names"]
    unknown = [] if identifiers is None else sorted(set(names) - set(identifiers))
    found = {
        "no case; every fold needs at least one": not names,
        "a case stands there twice; remove one": len(set(names)) != len(names),
        f"unknown cases {', '.join(unknown)}; correct the names": unknown,
    }
    return [text for text, is_wrong in found.items() if is_wrong]
