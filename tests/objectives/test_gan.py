from __future__ import annotations

import dataclasses

import pytest
import torch
from objectives.small import (
    ARCHITECTURE,
    WIDE,
    adam,
    half_mask,
    loop_step,
    make_batch,
    make_context,
    planned,
    small_generator,
)
from torch import nn

from gdmnet.drifting.coordination import inner, norms
from gdmnet.objectives.base import Batch
from gdmnet.objectives.gan import Gan, critic_loss, critic_rate, judged, square_loss
from gdmnet.objectives.options import GanOptions
from gdmnet.objectives.regression import Regression
from gdmnet.plan import Architecture


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, 1, 1, -1)


def linear_critic() -> nn.Conv3d:
    """D(c, x) = c / 2 + 2 x - 1 / 4 at each voxel."""
    critic = nn.Conv3d(2, 1, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([0.5, 2.0]).reshape(1, 2, 1, 1, 1))
        critic.bias.fill_(-0.25)
    return critic


class Fixed(nn.Module):
    """A generator whose output is its parameter."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, source: torch.Tensor) -> torch.Tensor:
        return self.output * 1.0


BATCH = Batch(row(1, 2), row(1, 0), row(1, 1))
GENERATED = row(0.5, -1.0)


def test_losses_and_gradients_are_those_of_the_hand():
    critic, image = linear_critic(), GENERATED.clone().requires_grad_(True)
    real, fake = judged(critic, BATCH, BATCH.target), judged(critic, BATCH, image)
    assert real.flatten().tolist() == [2.25, 0.75]
    assert fake.flatten().tolist() == [1.25, -1.25]
    adversarial = square_loss(fake, BATCH.mask, goal=1.0)
    assert float(adversarial.detach()) == (0.25**2 + 2.25**2) / 2
    (push,) = torch.autograd.grad(adversarial, image, retain_graph=True)
    assert push.flatten().tolist() == [0.5, -4.5]  # 2 (s - 1) dD/dx / 2
    loss = critic_loss(real, fake, BATCH.mask)
    assert float(loss.detach()) == 0.5 * ((1.25**2 + 0.25**2) / 2 + 1.25**2)
    weight, bias = torch.autograd.grad(loss, list(critic.parameters()))
    # For c: mean of (s_y - 1) c + s_x c over both voxels; for x: of (s_y - 1) y + s_x x.
    assert weight.flatten().tolist() == [
        (1.25 * 1 - 0.25 * 2 + 1.25 * 1 - 1.25 * 2) / 2,
        (1.25 * 1 - 0.25 * 0 + 1.25 * 0.5 + 1.25 * 1) / 2,
    ]
    assert bias.tolist() == [(1.25 - 0.25 + 1.25 - 1.25) / 2]


def test_a_step_gives_both_gradients_and_then_trains_the_critic():
    critic = linear_critic()
    gan = Gan(make_context(10, adversarial=0.1), critic)
    descent = gan.descend(Fixed(GENERATED), BATCH, torch.Generator())
    # L1: sign(x - y) / 2 = -1/2 at both voxels; the critic of before the step: 0.1 (0.5, -4.5).
    assert descent.cotangent.flatten().tolist() == pytest.approx([-0.45, -0.95])
    assert descent.metrics == pytest.approx(
        {"fidelity": 0.75, "adversarial": 2.5625, "critic": 1.1875}
    )
    first = gan.optimizer.state[critic.weight]["exp_avg"].flatten() / 0.5  # its mean gradient
    assert first.tolist() == pytest.approx([-0.25, 1.5625])
    # Adam's first step is its rate against the gradient's sign.
    assert critic.weight.flatten().tolist() == pytest.approx([0.5 + 2e-4, 2.0 - 2e-4], abs=1e-7)
    assert critic.weight.grad is None


def test_nothing_outside_the_mask_counts():
    half = dataclasses.replace(BATCH, mask=row(1, 0))
    odd = Batch(row(1, 77), row(1, -55), row(1, 0))
    for batch, output in ((half, GENERATED), (odd, row(0.5, 99.0))):
        gan = Gan(make_context(10, adversarial=0.1), linear_critic())
        descent = gan.descend(Fixed(output), batch, torch.Generator())
        assert descent.cotangent.flatten().tolist() == pytest.approx([-1 + 0.1 * 1.0, 0])
        assert descent.metrics["adversarial"] == 0.0625
        assert descent.metrics["critic"] == 0.5 * (1.25**2 + 1.25**2)


def test_without_the_critics_weight_it_is_regression_to_the_bit():
    weights = []
    for objective in (Gan(make_context(adversarial=0.0)), Regression(make_context())):
        generator = small_generator()
        optimiser = adam(generator)
        for step in range(3):
            loop_step(generator, objective, optimiser, step, make_batch(step, mask=half_mask()))
        weights.append(list(generator.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_critic_learns_to_tell_and_the_generator_to_please_it():
    batch = make_batch(0)
    generator, gan = small_generator(), Gan(make_context(60, critic_rate=2e-3))
    still = torch.optim.SGD(generator.parameters(), 0.0)
    logged = [loop_step(generator, gan, still, 0, batch).metrics["critic"] for _ in range(15)]
    assert logged[-1] < 0.5 * logged[0]
    gan.options = GanOptions(adversarial=10.0)
    gan.optimizer.step = lambda: None
    moving = adam(generator)
    pleased = [loop_step(generator, gan, moving, 0, batch).metrics for _ in range(15)]
    assert pleased[-1]["adversarial"] < 0.8 * pleased[0]["adversarial"]


def test_a_balanced_critic_has_no_norms_and_pulls_as_hard_as_it_is_told():
    gan = Gan(make_context(60, balance=0.3, critic_rate=2e-3))
    kinds = [
        {type(part).__name__ for part in objective.state.critic.modules()}
        for objective in (gan, Gan(make_context()))
    ]
    assert ["InstanceNorm" in kind for kind in kinds] == [False, True]
    fixed, shares = small_generator(), []
    for step in range(20):
        batch = make_batch(step)
        found = gan.descend(fixed, batch, torch.Generator()).cotangent
        plain = Regression(make_context()).descend(fixed, batch, torch.Generator()).cotangent
        assert (inner(found, plain) >= norms(plain) ** 2 * (1 - 1e-4)).all()
        shares.append(float((norms(found - plain) / norms(plain)).mean()))
    assert 0.2 < sum(shares) / len(shares) < 0.4


def test_the_rate_is_constant_and_then_falls_to_nothing():
    assert [critic_rate(step, 100, 2.0) for step in (0, 49, 50, 75, 99, 120)] == pytest.approx(
        [2, 2, 2, 1, 0.04, 0]
    )
    gan = Gan(make_context(4))
    rates = []
    for step in range(4):
        gan.descend(small_generator(), make_batch(step), torch.Generator())
        rates.append(gan.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([2e-4, 2e-4, 2e-4, 1e-4])


def test_autocast_does_not_reach_the_critic():
    batch = make_batch(0)
    plain = Gan(make_context()).descend(Fixed(batch.source), batch, torch.Generator())
    gan = Gan(make_context())
    found = []
    gan.state.critic.head.register_forward_hook(lambda *io: found.append(io[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = gan.descend(Fixed(batch.source), batch, torch.Generator())
    assert set(found) == {torch.float32}
    assert torch.equal(plain.cotangent, mixed.cotangent)


def test_the_critics_first_weights_follow_the_seed_alone():
    context = make_context()
    torch.manual_seed(1)
    first = Gan(context).state.state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    second = Gan(context).state.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = Gan(dataclasses.replace(context, seed=4)).state.state_dict()
    assert not torch.equal(first["critic.head.weight"], other["critic.head.weight"])


def test_a_critic_that_is_not_finite_is_left_alone_and_its_step_skipped():
    gan = Gan(make_context())
    with torch.no_grad():
        gan.state.critic.head.bias.fill_(torch.inf)
    before = gan.state.critic.head.weight.clone()
    assert not gan.descend(small_generator(), make_batch(0), torch.Generator()).finite
    assert torch.equal(gan.state.critic.head.weight, before)


@pytest.mark.parametrize("size", [(1, 16, 12), (5, 16, 12), (4, 7, 9)])
def test_flat_and_single_slice_patches_are_trained_on(size):
    flat = Architecture((3, 6, 6), ((1, 3, 3),) * 3, ((1, 1, 1), (1, 2, 2), (1, 2, 2)), (1, 1, 1))
    source, target = torch.randn(2, 2, 1, *size)
    gan = Gan(planned(make_context(), architecture=flat))
    descent = gan.descend(
        small_generator(), Batch(source, target, torch.ones_like(target)), torch.Generator()
    )
    assert descent.finite
    assert descent.cotangent.shape == target.shape


def test_several_source_channels_are_all_shown_to_the_critic():
    gan = Gan(planned(make_context(), sources=(WIDE,) * 3))
    first = next(gan.state.critic.parameters())
    assert first.shape[:2] == (2 * ARCHITECTURE.features[0], 4)


def test_an_empty_mask_moves_nothing():
    batch = make_batch(0, mask=torch.zeros(2, 1, 8, 12, 16))
    descent = Gan(make_context()).descend(small_generator(), batch, torch.Generator())
    assert descent.finite
    assert not bool(descent.cotangent.any())
