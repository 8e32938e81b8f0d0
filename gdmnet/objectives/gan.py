"""The conditional GAN of pix2pix (Isola et al., CVPR 2017) in 3D, with least-squares losses.

The generator descends L1 + a (D(c, x) - 1)^2 for source c and prediction x; the critic D descends
((D(c, y) - 1)^2 + D(c, x)^2) / 2 for the paired target y (LSGAN: Mao et al., ICCV 2017). pix2pix
writes 100 L1 + adversarial; with a = 1/100 that is the same, on the scale of `regression`, for
which the recipe's rate and clipping are made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from gdmnet.drifting.coordination import MeanNorm, balance, norms, remove_conflict
from gdmnet.drifting.numbers import NumbersModule
from gdmnet.drifting.representations import coverage
from gdmnet.networks.critic import Critic
from gdmnet.objectives.base import Batch, Context, Descent, Objective
from gdmnet.objectives.fidelity import all_finite, fidelity_gradient, masked_mean
from gdmnet.objectives.options import GanOptions, read_objective_options
from gdmnet.objectives.ranks import mean_over_ranks, on_all_ranks, shared_norms

BETAS = (0.5, 0.999)  # of the critic's Adam, as in pix2pix


class GanState(NumbersModule):
    """The critic, and mean norms where there is a balance."""

    step: int = 0  # steps begun

    def __init__(self, critic: nn.Module, *, balanced: bool) -> None:
        super().__init__()
        self.critic = critic
        self.averages = nn.ModuleList([MeanNorm(), MeanNorm()] if balanced else [])


class Gan(Objective):
    """The objective `gan`.

    The critic computes in float32 whatever the generator does: its gradient at one voxel is too
    small for float16, and its flat maps crash bfloat16 on CPUs (see `models.precision`).
    """

    def __init__(self, context: Context, critic: nn.Module | None = None) -> None:
        self.options: GanOptions = read_objective_options("gan", context.options)
        self.total_steps = context.total_steps
        critic = critic or critic_for(context, normed=self.options.balance == 0)
        self.state = GanState(critic, balanced=self.options.balance > 0)
        self.optimizer = Adam(critic.parameters(), self.options.critic_rate, BETAS)

    def modules(self) -> dict[str, nn.Module]:
        """The critic and its count of steps."""
        return {"gan": self.state}

    def optimizers(self) -> dict[str, Optimizer]:
        """The critic's."""
        return {"critic": self.optimizer}

    def descend(self, generator: nn.Module, batch: Batch, rng: torch.Generator) -> Descent:
        """One forward of the generator, the gradient at its output, then the critic's own step."""
        output = generator(batch.source)
        leaf, fidelity, gradient = fidelity_gradient(output, batch, name=self.options.fidelity)
        step = self.state.step
        self.state.step += 1
        if not on_all_ranks(condition=all_finite(fidelity, gradient), device=leaf.device):
            return Descent(output, gradient, {"fidelity": fidelity}, finite=False)
        with torch.enable_grad(), torch.autocast(leaf.device.type, enabled=False):
            fake = judged(self.state.critic, batch, leaf)
            real = judged(self.state.critic, batch, batch.target)
            weights = coverage(batch.mask, fake.shape[2:])
            adversarial = square_loss(fake, weights, goal=1.0)
            (push,) = torch.autograd.grad(adversarial, leaf, retain_graph=True)
            loss = critic_loss(real, fake, weights)
            self._train_critic(loss, critic_rate(step, self.total_steps, self.options.critic_rate))
        weighted = self.options.adversarial * push
        if self.options.balance:
            weighted = self.options.balance * self._coordinated(push, gradient)
        cotangent = gradient + weighted
        losses = {"adversarial": adversarial.detach(), "critic": loss.detach()}
        return Descent(output, cotangent, {"fidelity": fidelity, **losses}, all_finite(cotangent))

    def _coordinated(self, push: Tensor, fidelity: Tensor) -> Tensor:
        """The critic's gradient as strong as the fidelity's, without its part against it."""
        mean_f, mean_a = self.state.averages
        assert isinstance(mean_f, MeanNorm)
        assert isinstance(mean_a, MeanNorm)
        if bool(torch.isfinite(norms(push)).all()):
            mean_f.update(fidelity)
            mean_a.update(push)
        return remove_conflict(balance(push, *shared_norms(mean_f, mean_a)), fidelity)

    def _train_critic(self, loss: Tensor, rate: float) -> None:
        """One step of Adam with the mean gradient of all ranks; none where it is not finite."""
        parameters = list(self.state.critic.parameters())
        gradients = [mean_over_ranks(g) for g in torch.autograd.grad(loss, parameters)]
        if not all_finite(*gradients):
            return
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def judged(critic: nn.Module, batch: Batch, image: Tensor) -> Tensor:
    """The critic's scores of an image (b, 1, z, y, x) beside its source.

    Both are 0 outside the mask, in real and generated pairs alike, so that the critic learns
    nothing from what the generator is not asked for, and its gradient is 0 there.
    """
    pair = torch.cat([batch.source, image], dim=1)
    scores: Tensor = critic(torch.where(batch.mask > 0.5, pair, 0.0))
    return scores


def square_loss(scores: Tensor, weights: Tensor, *, goal: float) -> Tensor:
    """sum(w (s - goal)^2) / sum(w), a scalar; 0 where no score lies in the mask.

    Scores s and weights w are (b, 1, z', y', x'); w is the share of each score's cell inside the
    mask; the goal is 1 for real, 0 for generated.
    """
    return masked_mean((scores - goal).square(), weights)


def critic_loss(real: Tensor, fake: Tensor, weights: Tensor) -> Tensor:
    """((D(c, y) - 1)^2 + D(c, x)^2) / 2 (LSGAN, Eq. 9), each a mean inside the mask."""
    of_real = square_loss(real, weights, goal=1.0)
    return 0.5 * (of_real + square_loss(fake, weights, goal=0.0))


def critic_rate(step: int, total_steps: int, rate: float) -> float:
    """The learning rate of a step, from 0: constant, then linear to 0 over the second half."""
    return rate * max(0.0, min(1.0, 2.0 * (1.0 - step / total_steps)))


def critic_for(context: Context, *, normed: bool) -> Critic:
    """A critic that follows the plan, with seeded weights that are equal on all ranks."""
    configuration = context.configuration
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        n_channels = len(configuration.sources) + 1
        return Critic(configuration.architecture, n_channels, normed=normed)
