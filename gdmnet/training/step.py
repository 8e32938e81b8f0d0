"""One optimisation step: from an objective's descent to new weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from gdmnet.objectives.base import Descent
from gdmnet.objectives.ranks import on_all_ranks
from gdmnet.plan import Recipe
from gdmnet.training.distributed import averaged_over_ranks
from gdmnet.training.ema import WeightAverage
from gdmnet.training.schedule import learning_rate

BETAS = (0.9, 0.95)


def surrogate(descent: Descent) -> Tensor:
    """A scalar whose gradient with respect to the output is the descent's cotangent.

    L = sum(x g) with g constant: dL/dx = g. A plain operation, so that gradient scaling, hooks
    and compilation work as for any loss. Without a cotangent the tensor is the loss itself.
    """
    if descent.cotangent is None:
        return descent.tensor.float()
    return (descent.tensor.float() * descent.cotangent.detach().float()).sum()


def adamw(generator: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over the generator; norms and biases (vectors) do not decay."""
    parameters = [p for p in generator.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=recipe.learning_rate, betas=BETAS
    )


class GradientScaler(torch.amp.GradScaler):
    """A scaler that begins anew where the training went on without one, in another precision."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state back, if there is one."""
        if state_dict:
            super().load_state_dict(state_dict)


class GeneratorOptimizer:
    """Optimiser, gradient scaler and weight average of one generator.

    Args:
        generator: on its device already.
        recipe: of the training.
        device: of the generator.

    Attributes:
        trained: what a step calls: the generator, in a distributed training the wrapper that
            averages its gradients over the ranks.
    """

    def __init__(self, generator: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self.generator = generator
        self.trained = averaged_over_ranks(generator, device)
        self.recipe = recipe
        self.device = device
        self.optimizer = adamw(generator, recipe)
        self.average = WeightAverage(generator, recipe.ema_decay)
        self.scaler = GradientScaler(device.type, enabled=recipe.precision == "fp16")

    def parts(self) -> dict[str, Any]:
        """All that has state but the generator, by its name in a checkpoint."""
        return {"ema": self.average, "optimizer": self.optimizer, "scaler": self.scaler}

    def copy(self) -> GeneratorOptimizer:
        """The same of a copy of the generator, with the same state."""
        twin = GeneratorOptimizer(copy.deepcopy(self.generator), self.recipe, self.device)
        for name, part in twin.parts().items():
            part.load_state_dict(copy.deepcopy(self.parts()[name].state_dict()))
        return twin

    def step(self, descent: Descent, number: int) -> tuple[float, bool]:
        """Backward, clip, step, average; nothing changes when a number is not finite.

        Args:
            descent: of the objective.
            number: of the step in the run, from 0.

        Returns:
            The gradient's norm before clipping, and whether the step counts as finite: a gradient
            scaler that only looks for its scale does.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, self.recipe)
        self.optimizer.zero_grad(set_to_none=True)
        if not on_all_ranks(condition=descent.finite, device=self.device):
            return math.nan, False
        loss = surrogate(descent)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.generator.parameters(), self.recipe.clip)
        loss_is_finite = bool(torch.isfinite(loss))
        if loss_is_finite and bool(torch.isfinite(norm)):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.average.update(self.generator, number)
            return float(norm), True
        scale = self.scaler.get_scale()
        self.scaler.update()
        searches = 1.0 <= self.scaler.get_scale() < scale
        return float(norm), loss_is_finite and searches


def all_finite(module: nn.Module) -> bool:
    """True when no weight is nan or infinite."""
    return all(bool(torch.isfinite(p).all()) for p in module.parameters())
