"""Where a comparison lies, and what its methods share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.compare.held_out import Group, HeldOut
from gdmnet.compare.study import SLAB, Settings
from gdmnet.compare.variant import Method, Variant
from gdmnet.data.case import CaseFiles
from gdmnet.data.slab import write_slab
from gdmnet.folders import Roots
from gdmnet.inference.inputs import output_name
from gdmnet.plan import Plan, Run
from gdmnet.training.fold_training import FoldTraining, describe_training
from gdmnet.training.settings import TrainingSettings


@dataclass(frozen=True)
class Bench:
    """Where everything lies and what all methods share.

    Attributes:
        roots: raw and preprocessed; the comparison has results roots of its own.
        home: of the comparison.
        plan: of the dataset.
        settings: of every training and prediction.
        held_out: the cases to judge on.
        device: auto, cpu, cuda, ...
        slab: voxels along z, None for whole volumes.
    """

    roots: Roots
    home: Path
    plan: Plan
    settings: Settings
    held_out: HeldOut
    device: str
    slab: int | None

    @property
    def encoder_root(self) -> Path:
        """The results root of the encoder that all variants share."""
        return self.home / "models" / "encoder"

    def roots_of(self, variant: Variant) -> Roots:
        """The roots of a variant's trainings: results of its own."""
        return replace(self.roots, results=self.home / "models" / variant.folder)

    def model(self, variant: Variant) -> Path:
        """The folder of a variant's model."""
        results = self.roots_of(variant).results
        configuration = self.settings.configuration
        return folders.model_folder(results, self.plan.dataset, variant.objective, configuration)

    def is_trained(self, variant: Variant, fold: str) -> bool:
        """Whether a fold has its final checkpoint."""
        return (folders.fold_folder(self.model(variant), fold) / folders.FINAL).is_file()

    def predictions(self, method: Method, scope: str) -> Path:
        """Folder of a method's predictions, summary and verdict."""
        name = f"{scope}{self.slab}" if scope == SLAB else scope
        return self.home / "predictions" / method.folder / name

    def groups(self, scope: str) -> Iterator[Group]:
        """The held-out cases by the folds that translate them, cut to the slab if that is asked."""
        for group in self.held_out.groups:
            if scope == SLAB and self.slab is not None:
                place = self.home / f"slab{self.slab}"
                slabs = (write_slab(case, self.slab, place) for case in group.cases)
                yield replace(group, cases=tuple(slabs))
            else:
                yield group

    def options(self, variant: Variant, epochs: int, iterations: int) -> TrainingSettings:
        """What a training of a variant is told."""
        settings = self.settings
        return TrainingSettings(
            objective=variant.objective,
            epochs=epochs,
            iterations=iterations,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            device=self.device,
            precision=settings.precision,
            resume=True,
            encoder=settings.encoder,
            objective_options=variant.options,
            encoder_root=self.encoder_root,
            validates=bool(variant.options.get("realism_dial")),  # validation sets the dial
        )

    def job(self, variant: Variant, fold: str) -> FoldTraining:
        """A training as it would begin in an empty folder."""
        settings = self.settings
        options = self.options(variant, settings.epochs or 1, settings.iterations)
        roots, name = self.roots_of(variant), settings.configuration
        return describe_training(self.plan.dataset, name, fold, roots, options)

    def begun(self, variant: Variant) -> tuple[int, int] | None:
        """Epochs and steps an epoch of a variant's trainings, if one has begun."""
        for fold in self.settings.folds:
            path = folders.fold_folder(self.model(variant), fold) / folders.RUN_JSON
            if path.is_file():
                recipe = codec.load(Run, path).recipe
                return recipe.epochs, recipe.iterations
        return None

    def predicted(self, method: Method, scope: str) -> dict[str, tuple[CaseFiles, Path]]:
        """Identifier -> files and prediction of every case."""
        home = self.predictions(method, scope)
        return {
            case.identifier: (case, home / group.folder / output_name(case, self.plan))
            for group in self.groups(scope)
            for case in group.cases
        }
