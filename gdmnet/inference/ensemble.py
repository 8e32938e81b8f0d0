"""The folds' generators in torch: weights read and checked, and a volume through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from gdmnet.data.case import Case
from gdmnet.errors import CheckpointError, DeviceError, PlanError, is_out_of_memory
from gdmnet.files import file_sha256
from gdmnet.folders import PLAN_JSON
from gdmnet.inference.sampling import Sampler, choose_sampler, sample_volume
from gdmnet.inference.sliding import predict_volume
from gdmnet.inference.windows import Estimate, Spread, tiling_of
from gdmnet.models import checkpoint
from gdmnet.models.card import ModelCard
from gdmnet.models.checkpoint import between
from gdmnet.models.device import find_device, versions
from gdmnet.models.folder import ModelFolder
from gdmnet.models.precision import autocast, has_bf16
from gdmnet.objectives.base import Inputs
from gdmnet.objectives.build import OBJECTIVES, generator_of
from gdmnet.plan import Configuration


class Ensemble(nn.Module):
    """Several generators as one network that gives each one's output, in network units.

    Blending by windows is linear: the mean over them in every window, as `sliding` takes it, is
    the mean of the folds' whole volumes. A sampler calls them several times, None once.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        configuration: Configuration,
        card: ModelCard,
        sampler: Sampler | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.configuration, self.card, self.sampler = configuration, card, sampler

    def forward(self, x: Tensor, *time: Tensor) -> Tensor:
        """(1, c, z, y, x), and a time (1,) where members take one, to (n, 1, z, y, x), fp32."""
        return torch.cat([member(x, *time).float() for member in self.members])

    def predict(self, case: Case, *, spread: Spread | None = None) -> Estimate:
        """A case's target in network units, on the prepared grid, and the spread asked for."""

        def call(patch: Tensor, time: float | None = None) -> Tensor:
            moment = [] if time is None else [torch.full((len(patch),), time, device=patch.device)]
            with autocast(self.card.precision, patch.device):
                output: Tensor = self(patch, *moment)
            return output

        card, tiling = self.card, tiling_of(case, self.configuration)
        if self.sampler is not None:
            return sample_volume(
                call, self.sampler, case, tiling, device=card.device, settings=card.settings
            )
        return predict_volume(
            call, case.source, tiling, device=card.device, settings=card.settings, spread=spread
        )

    def versions(self) -> dict[str, str]:
        """Of the libraries that compute."""
        return versions()


def load_ensemble(model: ModelFolder, card: ModelCard, device: str) -> Ensemble:
    """Load the averaged weights of a model's folds, as the card says, onto a device.

    The network's own card has checkpoints, device, precision and sampler.

    Raises:
        CheckpointError: a damaged checkpoint, weights that are not finite, a realism is asked of a
            model without a twin, or steps of an objective without a sampler.
        DeviceError: no such device, or it is too full.
        PlanError: no network can be built of the plan.
    """
    place = find_device(device)
    runs, settings = list(model.runs.values()), card.settings
    _require_known(card.objective, model.path)
    sampler = choose_sampler(runs, model.configuration, settings)
    digests, members = {}, []
    for fold in model.runs:
        path = model.checkpoint(fold, settings.checkpoint)
        if not path.is_file() and path.with_suffix(".onnx").is_file():
            raise CheckpointError(f"{path.parent}: is ONNX, for gdm_predict --engine onnxruntime")
        generator = _build(model, Inputs() if sampler is None else sampler.objective.inputs)
        members.append(_with_weights(generator, path, card.realism.get(fold, 1.0)))
        digests[fold] = file_sha256(path)
    if sampler is not None:
        how = sampler.sampling
        settings = replace(settings, steps=how.steps, sampler=how.sampler, seed=sampler.seed)
    card = replace(
        card,
        checkpoints=digests,
        device=str(place),
        precision=_usable(runs[0].recipe.precision, place),
        settings=settings,
        network_calls=1 if sampler is None else sampler.network_calls,
    )
    network = Ensemble(members, model.configuration, card, sampler)
    try:
        return network.eval().requires_grad_(False).to(place)
    except RuntimeError as problem:
        if not is_out_of_memory(problem):
            raise
        raise DeviceError(
            f"--device {place}: not enough memory for {len(members)} networks; free it, or use"
            " --device cpu or fewer folds"
        ) from None


def _require_known(objective: str, path: Path) -> None:
    if objective not in OBJECTIVES:
        raise CheckpointError(
            f"{path}: trained with the objective {objective}, which this gdmnet does not know"
            f" (it knows {', '.join(OBJECTIVES)}); use the version that trained it"
        )


def _build(model: ModelFolder, inputs: Inputs) -> nn.Module:
    try:
        return generator_of(model.configuration, inputs)
    except (ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as problem:
        reason = str(problem).split("\n")[0]
        raise PlanError(
            f"{model.path / PLAN_JSON}: no network can be built of {model.configuration.name}"
            f" ({reason:.200}); copy the whole model folder again"
        ) from None


def _with_weights(generator: nn.Module, path: Path, realism: float) -> nn.Module:
    state = checkpoint.load(path)
    for name in ("ema", "twin"):
        checkpoint.require_finite(state.get(name, {}), generator.state_dict(), path)
    if realism != 1.0 and "twin" not in state:
        raise CheckpointError(
            f"{path}: has no regression twin, so its realism cannot be dialled to {realism:g};"
            " train with --realism-dial, or leave --realism out"
        )
    try:
        generator.load_state_dict(between(state.get("twin", {}), state["ema"], realism))
    except (RuntimeError, TypeError, KeyError, AttributeError):
        raise CheckpointError(
            f"{path}: its weights do not fit the network of {PLAN_JSON}; the two are from"
            " different trainings, copy the whole model folder again"
        ) from None
    return generator


def _usable(precision: str, device: torch.device) -> str:
    """The training's precision where the device computes in it, else fp32."""
    usable = has_bf16(device) if precision == "bf16" else device.type == "cuda"
    return precision if usable else "fp32"
