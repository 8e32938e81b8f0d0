"""The feature encoder of one fold, trained alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.data.splits import split_for
from gdmnet.data.store import StoredCase
from gdmnet.folders import Roots
from gdmnet.models.device import find_device
from gdmnet.plan import Configuration, Fingerprint, Plan, Recipe
from gdmnet.training.feature_encoder import prepare_encoder
from gdmnet.training.start import Options, describe, open_cases


@dataclass(frozen=True)
class Fold:
    """The training cases of a fold, and all that its encoder depends on."""

    configuration: Configuration
    cases: list[StoredCase]
    recipe: Recipe
    folder: Path
    fingerprint: Fingerprint


def train_encoder(
    dataset: str | int, configuration: str, fold: str, roots: Roots, options: Options | None = None
) -> Path:
    """Train the encoder of one fold, or find that it is there.

    Args:
        dataset: 501 or "Dataset501_Name"; planned and prepared.
        configuration: a name of its plan.
        fold: "0", "1", ... or "all": only its training cases are looked at.
        roots: the folders.
        options: seed, device, precision and encoder are heeded.

    Returns:
        The folder with encoder.pt and report.json.

    Raises:
        GdmnetError: an unknown dataset, configuration, fold or device; a useless encoder.
    """
    options = options or Options()
    found = open_fold(dataset, configuration, fold, roots, options)
    prepare_encoder(
        options.encoder,
        found.cases,
        found.configuration,
        fingerprint=found.fingerprint,
        folder=found.folder,
        recipe=found.recipe,
        device=find_device(options.device),
    )
    return found.folder


def open_fold(
    dataset: str | int, configuration: str, fold: str, roots: Roots, options: Options
) -> Fold:
    """What a training of this fold would work with.

    Raises:
        GdmnetError: an unknown dataset, configuration, fold or device.
    """
    name = folders.resolve_dataset(dataset, roots.preprocessed)
    plan = codec.load(Plan, roots.preprocessed / name / folders.PLAN_JSON)
    chosen = plan.configuration(configuration)
    split = split_for(str(fold), roots.preprocessed / name / folders.SPLITS_JSON)
    device = find_device(options.device)
    recipe = describe(plan, chosen, str(fold), split, options, device).recipe
    prepared = folders.preprocessed_cases(roots.preprocessed, name, configuration)
    return Fold(
        configuration=chosen,
        cases=open_cases(prepared, split)[0],
        recipe=recipe,
        folder=folders.encoder_folder(roots.results, name, configuration, str(fold)),
        fingerprint=codec.load(Fingerprint, roots.preprocessed / name / folders.FINGERPRINT_JSON),
    )
