"""One optimisation step: from an objective's descent to new weights, and what follows them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gdmnet.objectives.base import Descent, Objective
from gdmnet.objectives.ranks import n_ranks, on_all_ranks
from gdmnet.plan import Recipe

BETAS = (0.9, 0.95)
MOST_WARM_UP_STEPS = 1000


def warm_up_steps(recipe: Recipe) -> int:
    """Steps of the linear warm-up: a share of the run, at most 1000, at least 1."""
    return max(1, min(MOST_WARM_UP_STEPS, round(recipe.warm_up_share * recipe.total_steps)))


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a half cosine to 0 over the planned total of steps; they count from 0.

    lr(s) = lr (s + 1) / w for s < w, else lr (1 + cos(pi (s - w) / (S - w))) / 2, with w warm-up
    steps of S steps in all (SGDR, arXiv 1608.03983, without restarts).
    """
    warm = warm_up_steps(recipe)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, recipe.total_steps - warm))
    return recipe.learning_rate * (1.0 + math.cos(math.pi * done)) / 2.0


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
    fused = parameters[0].is_cuda or None
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=BETAS,
        fused=fused,
    )

    def as_here(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """A state that another kind of device saved asks for that device's kernels."""
        groups = [group | {"fused": fused} for group in state["param_groups"]]
        return state | {"param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(as_here)
    return optimizer


class GradientScaler(torch.amp.GradScaler):
    """A scaler that begins anew where the training went on without one, in another precision."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state back, if there is one."""
        if state_dict:
            super().load_state_dict(state_dict)


class WeightAverage:
    """A frozen copy of a network whose weights follow the trained ones slowly, in eval mode."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow the weights: w' <- d w' + (1 - d) w, d = min(decay, (1 + step) / (10 + step)).

        So a young average forgets its random start quickly. Buffers are copied: they are counters
        or statistics, not weights.
        """
        share = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        averages: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(averages, list(network.parameters()), share)
        for kept, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(buffer)


class GeneratorOptimizer:
    """Optimiser, gradient scaler and weight average of one generator that is on the device.

    A step calls `trained`: the generator, in a distributed training the wrapper that averages its
    gradients over the ranks.
    """

    def __init__(self, generator: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self.generator = generator
        self.trained = generator
        if n_ranks() > 1:
            here = [device] if device.type == "cuda" else None
            self.trained = DistributedDataParallel(generator, here)
        self.recipe = recipe
        self.device = device
        self.optimizer = adamw(generator, recipe)
        self.average = WeightAverage(generator, recipe.ema_decay)
        self.scaler = GradientScaler(device.type, enabled=recipe.precision == "fp16")

    def parts(self) -> dict[str, Any]:
        """All that has state but the generator, by its name in a checkpoint."""
        return {"ema": self.average.network, "optimizer": self.optimizer, "scaler": self.scaler}

    def copy(self) -> GeneratorOptimizer:
        """The same of a copy of the generator, with the same state."""
        twin = GeneratorOptimizer(copy.deepcopy(self.generator), self.recipe, self.device)
        for name, part in twin.parts().items():
            part.load_state_dict(copy.deepcopy(self.parts()[name].state_dict()))
        return twin

    def step(self, descent: Descent, number: int) -> tuple[float, bool]:
        """Backward, clip, step, average; nothing changes when a number is not finite.

        Returns:
            The gradient's norm before clipping, and whether the step, whose number is from 0,
            counts as finite: a gradient scaler that only looks for its scale does.
        """
        if not on_all_ranks(condition=descent.finite, device=self.device):
            return math.nan, False
        loss = surrogate(descent)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        length = nn.utils.clip_grad_norm_(self.generator.parameters(), self.recipe.clip)
        value, norm = torch.stack([loss.detach(), length]).tolist()  # the host waits once
        finite = math.isfinite(value) and math.isfinite(norm)
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(number, self.recipe)
            self.scaler.step(self.optimizer)
            self.average.update(self.generator, number)
        scale = self.scaler.get_scale() if not finite else 0.0
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)  # here, so that no forward finds them in memory
        return norm, finite or (math.isfinite(value) and 1.0 <= self.scaler.get_scale() < scale)


class RegressionTwin:
    """A second generator with its own optimiser: the faithful end of the realism dial.

    It begins as a copy of the generator in the step `start`, in which the realism begins, and from
    then on sees the same patches with the same schedule, but descends the fidelity alone. The dial
    is the line through both in weight space: theta(T) = theta_twin + T (theta_generator -
    theta_twin).
    """

    def __init__(self, objective: Objective, start: int) -> None:
        self.objective = objective
        self.start = start
        self.optimizer: GeneratorOptimizer | None = None

    def begin(self, original: GeneratorOptimizer) -> GeneratorOptimizer:
        """Become a copy of the generator, with its weights, optimiser and average."""
        self.optimizer = original.copy()
        return self.optimizer

    def state_dict(self) -> dict[str, Any]:
        """Nothing before it begins."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state back; where there is one, the twin must have begun."""
        if not state:
            self.optimizer = None
        elif self.optimizer is None:
            raise ValueError("the twin has not begun")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def weights(self) -> dict[str, Tensor] | None:
        """The averaged weights, or None before it begins."""
        return None if self.optimizer is None else self.optimizer.average.network.state_dict()

    def _parts(self) -> dict[str, Any]:
        if self.optimizer is None:
            return {}
        return {"generator": self.optimizer.generator, **self.optimizer.parts()}
