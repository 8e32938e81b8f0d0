"""nnU-Net's side of `against_nnunet.py`; started by it, in nnU-Net's own environment.

Only nnU-Net's own classes compute: its preprocessor, trainer, data loaders and predictor.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import (
    get_pool_and_conv_props,
)
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from rival_costs import Cost, cost_of, serve

CPU = torch.device("cpu")
MIN_EDGE = 4  # voxels of the coarsest maps: ExperimentPlanner.UNet_featuremap_min_edge_length
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
EQUAL, OWN = "equal", "own"  # configurations that are added to nnU-Net's plan


class NnUNet:
    """The tasks, on what nnUNetv2_plan_and_preprocess made in home/nnunet."""

    def __init__(self, home: Path) -> None:
        root = home / "nnunet"
        (self.raw,) = (root / "raw").glob("Dataset*")
        self.aside = root / "aside"
        self.dataset = json.loads((self.raw / "dataset.json").read_text())
        plan = root / "preprocessed" / self.raw.name / "nnUNetPlans.json"
        self.plans = json.loads(plan.read_text())
        self.trainers: dict[str, nnUNetTrainer] = {}
        self.loaders: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}

    def describe(self) -> dict[str, Any]:
        """What its planner chose on this dataset by itself."""
        fullres = self.plans["configurations"]["3d_fullres"]
        return {key: fullres[key] for key in ("spacing", "patch_size", "batch_size")}

    def adopt(self, wanted: dict[str, Any]) -> dict[str, int]:
        """Add two configurations with the other side's spacing, patch and batch; parameters.

        `equal` has its stages, features, blocks and strides; `own` is the network that nnU-Net's
        planner gives a patch of this size, with deep supervision.
        """
        for name in (EQUAL, OWN):
            shared = {key: wanted[key] for key in ("spacing", "patch_size", "batch_size")}
            self.plans["configurations"][name] = shared | {"inherits_from": "3d_fullres"}
        theirs, planned = wanted["architecture"], self._planned()
        n_stages = len(theirs["features"])
        equal = {"network_class_name": RESIDUAL, **self._alike(theirs)}
        equal["arch_kwargs"]["n_blocks_per_stage"] = theirs["blocks"]
        equal["arch_kwargs"]["n_conv_per_stage_decoder"] = [1] * (n_stages - 1)
        self.plans["configurations"][EQUAL]["architecture"] = equal
        _, strides, kernels, _, _ = get_pool_and_conv_props(
            wanted["spacing"], wanted["patch_size"], MIN_EDGE, 999999
        )
        kwargs, depth = planned["arch_kwargs"], len(strides)
        kwargs |= {"strides": _lists(strides), "kernel_sizes": _lists(kernels), "n_stages": depth}
        for name in ("features_per_stage", "n_conv_per_stage"):
            kwargs[name] = kwargs[name][:depth]
        kwargs["n_conv_per_stage_decoder"] = kwargs["n_conv_per_stage_decoder"][: depth - 1]
        self.plans["configurations"][OWN]["architecture"] = planned
        for name in (EQUAL, OWN):
            self._start(name)
        return {
            name: sum(p.numel() for p in trainer.network.parameters())
            for name, trainer in self.trainers.items()
        }

    def prepare(self, case: str) -> tuple[Cost, int]:
        """Preprocess one case into an empty folder; its bytes there."""
        shutil.rmtree(self.aside, ignore_errors=True)
        self.aside.mkdir()
        manager = PlansManager(self.plans)
        ending = self.dataset["file_ending"]
        image = str(self.raw / "imagesTr" / f"{case}_0000{ending}")
        label = str(self.raw / "labelsTr" / f"{case}{ending}")
        preprocessor = DefaultPreprocessor(verbose=False)
        _, cost = cost_of(
            lambda: preprocessor.run_case_save(
                str(self.aside / case),
                [image],
                label,
                manager,
                manager.get_configuration(EQUAL),
                self.dataset,
            )
        )
        return cost, sum(path.stat().st_size for path in self.aside.iterdir())

    def batch(self, numbers: list[int]) -> Cost:
        """Read and augment batches in this process; nnU-Net draws them as they come."""
        return cost_of(lambda: [next(self.loaders[EQUAL]) for _ in numbers])[1]

    def step(self, configuration: str) -> Cost:
        """The trainer's own step on a batch that is in memory already, fp32 as always on CPUs."""
        trainer, batch = self.trainers[configuration], self.kept[configuration]
        trainer.network.train()
        return cost_of(lambda: trainer.train_step(batch))[1]

    def predict(self, image: str) -> dict[str, Any]:
        """One volume from file to file with fresh weights, no mirroring, in parts."""
        trainer = self.trainers[EQUAL]
        predictor = nnUNetPredictor(
            tile_step_size=0.5,
            use_mirroring=False,
            perform_everything_on_device=False,
            device=CPU,
            allow_tqdm=False,
        )
        manager, configuration = trainer.plans_manager, trainer.configuration_manager
        predictor.manual_initialization(
            trainer.network, manager, configuration, None, self.dataset, "nnUNetTrainer", None
        )
        calls: list[None] = []
        hook = trainer.network.register_forward_hook(lambda *_: calls.append(None))
        preprocessor = DefaultPreprocessor(verbose=False)
        (data, _, properties), before = cost_of(
            lambda: preprocessor.run_case([image], None, manager, configuration, self.dataset)
        )
        logits, windows = cost_of(
            lambda: predictor.predict_sliding_window_return_logits(torch.from_numpy(data))
        )
        hook.remove()
        self.aside.mkdir(exist_ok=True)
        place = str(self.aside / "prediction")
        _, after = cost_of(
            lambda: export_prediction_from_logits(
                logits, properties, configuration, manager, self.dataset, place
            )
        )
        parts = {"prepare": before, "windows": windows, "export": after}
        return {"n_windows": len(calls), "parts": parts}

    def _planned(self) -> dict[str, Any]:
        return copy.deepcopy(self.plans["configurations"]["3d_fullres"]["architecture"])

    def _alike(self, theirs: dict[str, Any]) -> dict[str, Any]:
        """The planned layers' kinds, with the other side's sizes."""
        planned = self._planned()
        kwargs = planned["arch_kwargs"]
        del kwargs["n_conv_per_stage"]
        kwargs["n_stages"] = len(theirs["features"])
        kwargs["features_per_stage"] = theirs["features"]
        kwargs["kernel_sizes"] = theirs["kernels"]
        kwargs["strides"] = theirs["strides"]
        return {key: planned[key] for key in ("arch_kwargs", "_kw_requires_import")}

    def _start(self, name: str) -> None:
        torch.manual_seed(0)
        plans = copy.deepcopy(self.plans) | {"continue_training": False}
        trainer = nnUNetTrainer(plans, name, "all", self.dataset, CPU)
        trainer.enable_deep_supervision = name == OWN
        trainer.initialize()
        self.trainers[name] = trainer
        self.loaders[name], _ = trainer.get_dataloaders()
        self.kept[name] = next(self.loaders[name])


def _lists(shapes: Any) -> list[list[int]]:  # noqa: ANN401
    return [[int(n) for n in shape] for shape in shapes]


def main() -> None:
    """Serve the tasks."""
    os.environ.update(nnUNet_n_proc_DA="0")  # batches in this process, as gdmnet's on a CPU
    torch.set_num_threads(1)
    side = NnUNet(Path(sys.argv[1]))
    names = ("describe", "adopt", "prepare", "batch", "step", "predict")
    serve({name: getattr(side, name) for name in names})


if __name__ == "__main__":
    main()
