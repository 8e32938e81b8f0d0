"""Where everything lies on disk; the only module that reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gdmnet.errors import DatasetError

RAW, PREPROCESSED, RESULTS = "gdmnet_raw", "gdmnet_preprocessed", "gdmnet_results"
ENCODERS = "gdmnet_encoders"
NIFTI_FORM = "gdmnet_nifti_form"
NIFTI_FORMS = ("sform", "qform")
_DATASET = re.compile(r"Dataset(\d{3})_(.+)")

DATASET_JSON = "dataset.json"
FINGERPRINT_JSON = "fingerprint.json"
PLAN_JSON = "plan.json"
SPLITS_JSON = "splits_final.json"
RUN_JSON = "run.json"
SUMMARY_JSON = "summary.json"
LATEST, BEST, FINAL = "checkpoint_latest.pt", "checkpoint_best.pt", "checkpoint_final.pt"
ONNX = "checkpoint_final.onnx"
"""What `gdm_export_model --onnx` makes of it."""
CHECKPOINTS = {"final": FINAL, "best": BEST}
"""Those that a finished training leaves to predict with."""


@dataclass(frozen=True)
class Roots:
    """The three root folders; `note` is what a command says aloud of those that were guessed.

    `origins` says of raw, preprocessed and results where each comes from.
    """

    raw: Path
    preprocessed: Path
    results: Path
    note: str = ""
    origins: tuple[str, ...] = ("given",) * 3


def find_roots(
    raw: Path | None = None, preprocessed: Path | None = None, results: Path | None = None
) -> Roots:
    """Roots from the arguments, else the environment, else folders in the current directory."""
    places: list[Path] = []
    origins: list[str] = []
    unset: list[str] = []
    for name, given in ((RAW, raw), (PREPROCESSED, preprocessed), (RESULTS, results)):
        variable = os.environ.get(name)
        places.append(given or Path(variable or Path.cwd() / name))
        is_set = given is not None or variable
        unset += [] if is_set or places[-1].is_dir() else [name]
        default = "environment variable" if variable else "current directory"
        origins.append(default if given is None else "given")
    note = f"not set, so in {Path.cwd()}: {', '.join(unset)}" if unset else ""
    return Roots(places[0], places[1], places[2], note, tuple(origins))


def encoders_root() -> Path | None:
    """Folder of public encoders' weights, $gdmnet_encoders; None where it is not set."""
    root = os.environ.get(ENCODERS)
    return Path(root) if root else None


def use_nifti_form(form: str) -> None:
    """Let "sform" or "qform" decide, for this process and those that it starts."""
    os.environ[NIFTI_FORM] = form


@contextmanager
def nifti_form_in(form: str | None) -> Iterator[None]:
    """`use_nifti_form` within the block; None leaves it to what decides already."""
    before = os.environ.get(NIFTI_FORM)
    if form is not None:
        use_nifti_form(form)
    try:
        yield
    finally:
        os.environ.pop(NIFTI_FORM, None)
        if before is not None:
            os.environ[NIFTI_FORM] = before


def nifti_form() -> str | None:
    """The form that decides where the two of a NIfTI file differ, $gdmnet_nifti_form; or None.

    It stands in the environment, so that it reaches every process that reads images.

    Raises:
        DatasetError: it is neither "sform" nor "qform".
    """
    form = os.environ.get(NIFTI_FORM) or None
    if form not in (None, *NIFTI_FORMS):
        raise DatasetError(f"${NIFTI_FORM} is {form!r}; set it to {' or '.join(NIFTI_FORMS)}")
    return form


def n_default_processes() -> int:
    """Worker processes when `-np` is not given: the cores this process may use, at most 8."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, min(8, len(os.sched_getaffinity(0))))
    return max(1, min(8, os.cpu_count() or 1))


def dataset_names(root: Path) -> list[str]:
    """Names of the form Dataset501_Name that lie in a root, sorted.

    Raises:
        DatasetError: the root cannot be read.
    """
    try:
        found = [p for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
    except OSError as problem:  # a name too long, no permission
        raise DatasetError(f"{str(root)[:80]}: cannot be read ({problem.strerror})") from None
    return sorted(path.name for path in found if _DATASET.fullmatch(path.name))


def resolve_dataset(dataset: str | int, root: Path, *, raw: Path | None = None) -> str:
    """The full name of a dataset in a root, given as 501, "501" or "Dataset501_Name".

    `raw` has the raw datasets, where it may lie and not be planned yet.

    Raises:
        DatasetError: no such dataset in the root, or two with the same number.
    """
    text, names = str(dataset), dataset_names(root)
    found = _called(text, names)
    if len(found) == 1:
        return found[0]
    if found:
        raise DatasetError(
            f"{root}: the number {text} is used by {', '.join(found)}; give one of them another"
        )
    if raw is not None and _called(text, dataset_names(raw)):
        raise DatasetError(
            f"{root}: dataset {text} lies among the raw ones, but is not planned and prepared yet;"
            f" gdm_plan_and_preprocess -d {text} does that"
        )
    there = ", ".join(names) if names else "none"
    raise DatasetError(
        f"{root}: no dataset {text} (there: {there}); check the number, or name the right folder"
        " with --raw, --preprocessed or --results"
    )


def _called(text: str, names: Sequence[str]) -> list[str]:
    """The datasets of this name, else those of this number."""
    if text in names:
        return [text]
    return [n for n in names if text.isdecimal() and int(n[7:10]) == int(text)]


def model_folder(results: Path, dataset: str, objective: str, configuration: str) -> Path:
    """Folder of one trained model; its folds lie in it."""
    return results / dataset / f"{objective}__{configuration}"


def fold_folder(model: Path, fold: str) -> Path:
    """Folder of one fold ("0", "1", ..., or "all") of a model."""
    return model / f"fold_{fold}"


def encoder_folder(results: Path, dataset: str, configuration: str, fold: str) -> Path:
    """Folder of the embedded encoder that was trained on one fold's training targets."""
    return results / dataset / f"encoder_self__{configuration}" / f"fold_{fold}"


def finished_folds(model: Path) -> list[str]:
    """Folds with a final checkpoint, or that as an exported network; numeric ones first."""
    paths = (path for name in (FINAL, ONNX) for path in model.glob(f"fold_*/{name}"))
    folds = {path.parent.name.removeprefix("fold_") for path in paths}
    return sorted(folds, key=lambda f: (not f.isdecimal(), int(f) if f.isdecimal() else 0, f))


class FinishedModel(NamedTuple):
    """A trained model among the results: where it lies, and what its path says of it."""

    dataset: str
    objective: str
    configuration: str
    folder: Path

    @property
    def folds(self) -> list[str]:
        """Its finished folds, numeric ones first."""
        return finished_folds(self.folder)


def finished_models(results: Path) -> Iterator[FinishedModel]:
    """Every model with a finished fold."""
    for dataset in dataset_names(results):
        for folder in sorted((results / dataset).glob("*__*")):
            objective, _, configuration = folder.name.partition("__")
            if (folder / PLAN_JSON).is_file() and finished_folds(folder):
                yield FinishedModel(dataset, objective, configuration, folder)
