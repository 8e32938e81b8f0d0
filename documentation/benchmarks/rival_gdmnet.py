"""gdmnet's side of `against_nnunet.py`; started by it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from rival_costs import Cost, cost_of, serve

from gdmnet import codec, folders
from gdmnet.data.case import CaseFiles
from gdmnet.data.raw import read_description, training_cases
from gdmnet.data.store import open_case, remove_case, stored_identifiers
from gdmnet.data.volume import write_volume
from gdmnet.encoders import build_encoder
from gdmnet.inference.translator import Ensemble, Translator
from gdmnet.models.card import ModelCard
from gdmnet.models.precision import autocast
from gdmnet.networks.unet import Generator
from gdmnet.objectives.base import Batch, Context
from gdmnet.objectives.build import OBJECTIVES
from gdmnet.plan import Configuration, Plan, Recipe
from gdmnet.preprocessing import prepare, prepare_and_store
from gdmnet.training.batches import Batches
from gdmnet.training.step import Stepper

CPU = torch.device("cpu")
STEPS = 1000  # a training's length; only schedules look at it
# The drift acts from the first step on: what a step costs in the last 80 % of a training.
OPTIONS: dict[str, dict[str, Any]] = {"regression": {}, "gdm": {"regression_share": 0.0}}


class Gdmnet:
    """The tasks, on what gdm_plan_and_preprocess made in home/gdmnet."""

    def __init__(self, home: Path) -> None:
        (self.raw,) = (home / "gdmnet" / "raw").glob("Dataset*")
        self.prepared = home / "gdmnet" / "preprocessed" / self.raw.name
        self.aside = home / "gdmnet" / "aside"
        self.plan = codec.load(Plan, self.prepared / folders.PLAN_JSON)
        self.configuration: Configuration = self.plan.configurations["3d_fullres"]
        self.files = {
            files.identifier: files
            for files in training_cases(self.raw, read_description(self.raw))[0]
        }
        self.batches = self._batches()
        self.kept: Batch = self.batches.batch(0, 0)
        self.trainings: dict[str, Training] = {}

    def describe(self) -> dict[str, Any]:
        """What the other side must have equal, and the network's size."""
        told = codec.encode(self.configuration)
        network = self._network()
        n_parameters = sum(p.numel() for p in network.parameters())
        keys = ("spacing", "patch_size", "batch_size", "architecture")
        return {key: told[key] for key in keys} | {"n_parameters": n_parameters}

    def prepare(self, case: str) -> tuple[Cost, int]:
        """Preprocess one case into an empty folder; its bytes there."""
        self.aside.mkdir(exist_ok=True)
        remove_case(self.aside, case)
        files, configuration = self.files[case], self.configuration
        _, cost = cost_of(lambda: prepare_and_store(files, configuration, self.aside))
        return cost, sum(path.stat().st_size for path in (self.aside / case).iterdir())

    def batch(self, numbers: list[int]) -> Cost:
        """Read and augment batches in this process."""
        return cost_of(lambda: [self.batches.batch(0, number) for number in numbers])[1]

    def step(self, objective: str, precision: str) -> Cost:
        """One step on a batch that is in memory already: forward, backward, optimiser, average."""
        if objective not in self.trainings:
            self.trainings[objective] = Training(objective, self)
        training = self.trainings[objective]
        return cost_of(lambda: training.step(precision))[1]

    def predict(self, image: str, precision: str) -> dict[str, Any]:
        """One volume from file to file with fresh weights, in parts."""
        network = Ensemble([self._network()]).eval().requires_grad_(False)
        calls: list[None] = []
        network.register_forward_hook(lambda *_: calls.append(None))
        card = ModelCard(str(self.aside), "gdm", "3d_fullres", {}, "cpu", precision)
        translator = Translator(self.plan, self.configuration, card, network)
        files = CaseFiles("case", (Path(image),), None, None)
        case, before = cost_of(lambda: prepare(files, self.configuration))
        estimate, windows = cost_of(lambda: translator.predict(case))
        self.aside.mkdir(exist_ok=True)
        place = self.aside / "prediction.nii.gz"
        _, after = cost_of(
            lambda: write_volume(
                place, translator.restore(estimate, case), integer=self.plan.integer_output
            )
        )
        parts = {"prepare": before, "windows": windows, "export": after}
        return {"n_windows": len(calls), "parts": parts}

    def _batches(self) -> Batches:
        folder = self.prepared / "3d_fullres"
        cases = [open_case(folder, name) for name in stored_identifiers(folder)]
        return Batches(cases, self.configuration, seed=0, augment=True)

    def _network(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return Generator(
            self.configuration.architecture,
            n_sources=len(self.configuration.sources),
            residual_channel=self.configuration.residual_channel,
        )


class Training:
    """One training without its loop's checkpoints and logs, as `training.loop` steps it."""

    def __init__(self, name: str, side: Gdmnet) -> None:
        configuration = side.configuration
        context = Context(
            total_steps=STEPS,
            patch_size=configuration.patch_size,
            spacing=configuration.spacing,
            n_sources=len(configuration.sources),
            # Random weights in the architecture of the embedded encoder: the same work.
            encoder=build_encoder("random", weights=None, configuration=configuration),
            options=OPTIONS[name],
            architecture=configuration.architecture,
        )
        self.objective = OBJECTIVES[name](context)
        recipe = Recipe(epochs=1, iterations=STEPS)
        self.stepper = Stepper(side._network().train(), recipe, CPU)
        self.batch = side.kept
        self.rng = torch.Generator()
        self.number = 0

    def step(self, precision: str) -> None:
        with autocast(precision, CPU):
            descent = self.objective.descend(self.stepper.trained, self.batch, self.rng)
        self.stepper.step(descent, self.number)
        self.number += 1


def main() -> None:
    """Serve the tasks."""
    torch.set_num_threads(1)
    side = Gdmnet(Path(sys.argv[1]))
    names = ("describe", "prepare", "batch", "step", "predict")
    serve({name: getattr(side, name) for name in names})


if __name__ == "__main__":
    main()
