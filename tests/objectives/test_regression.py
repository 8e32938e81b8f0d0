from __future__ import annotations

import math

import pytest
import torch
from objectives.small import (
    CountingEncoder,
    adam,
    half_mask,
    loop_step,
    make_batch,
    make_context,
    small_generator,
)
from torch import nn

from gdmnet.drifting.representations import look
from gdmnet.errors import SettingError, TrainingError
from gdmnet.objectives.base import Batch
from gdmnet.objectives.fidelity import fidelity_gradient
from gdmnet.objectives.options import needs_encoder
from gdmnet.objectives.regression import Regression, feature_distance, perceptual_gradient


def slow_distance(generated, target, weights) -> float:
    """One location after the other."""
    total, count = 0.0, 0.0
    b, c, *shape = generated.shape
    for place in torch.cartesian_prod(*(torch.arange(n) for n in (b, *shape))).tolist():
        sample, z, y, x = place
        mine, real = generated[sample, :, z, y, x], target[sample, :, z, y, x]
        weight = float(weights[sample, 0, z, y, x])
        lengths = [math.sqrt(float((v**2).mean()) + 1e-6) for v in (mine, real)]
        apart = sum(
            abs(float(mine[k]) / lengths[0] - float(real[k]) / lengths[1]) for k in range(c)
        )
        total += weight * apart / c
        count += weight
    return total / count


def pull_of(encoder, leaf, batch):
    return perceptual_gradient(look(encoder, leaf, batch.target, batch.mask), leaf)


def leaf_of(batch: Batch) -> torch.Tensor:
    return batch.source.clone().requires_grad_(True)


def test_the_distance_is_that_of_a_slow_loop():
    torch.manual_seed(3)
    generated, target = torch.randn(2, 5, 2, 3, 4), torch.randn(2, 5, 2, 3, 4)
    target[0, :, 0, 0, 0] = 0.0  # no features at all
    mask = torch.zeros(2, 1, 4, 6, 8)
    mask[:, :, :, 1:, 3:] = 1
    weights = nn.functional.avg_pool3d(mask, 2)
    slow = slow_distance(generated, target, weights)
    assert float(feature_distance(generated, target, mask)[0]) == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_slope_is_that_of_autograd_in_half_precision_too(dtype):
    def unit(maps):
        return maps * (maps.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()

    torch.manual_seed(3)
    generated, target = torch.randn(2, 5, 2, 3, 4), 3 * torch.randn(2, 5, 2, 3, 4)
    mask = (torch.rand(2, 1, 2, 3, 4) > 0.3).float()
    f = generated.to(dtype).double().requires_grad_(True)
    apart = (unit(f) - unit(target.to(dtype).double())).abs().mean(dim=1, keepdim=True)
    ((apart * mask).sum() / mask.sum()).backward()
    _, slope = feature_distance(generated.to(dtype), target.to(dtype), mask)
    assert slope.dtype == dtype
    close = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(slope.double() / 1024, f.grad, rtol=close, atol=1e-7)


def test_only_directions_count_and_the_number_of_channels_does_not():
    torch.manual_seed(3)
    mine, real, mask = (
        torch.randn(1, 4, 2, 3, 4),
        torch.randn(1, 4, 2, 3, 4),
        torch.ones(1, 1, 2, 3, 4),
    )
    distance = float(feature_distance(mine, real, mask)[0])
    scaled, _ = feature_distance(30 * mine, 20 * real, mask)
    assert float(scaled) == pytest.approx(distance, rel=1e-4)
    twice, _ = feature_distance(torch.cat([mine, mine], 1), torch.cat([real, real], 1), mask)
    assert float(twice) == pytest.approx(distance, rel=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    encoder, batch = CountingEncoder(), make_batch(0, mask=half_mask())
    leaf = leaf_of(batch)
    distance, gradient = pull_of(encoder, leaf, batch)
    direction = gradient / gradient.norm()
    step = 0.02
    ahead, _ = pull_of(encoder, (leaf + step * direction).detach().requires_grad_(), batch)
    back, _ = pull_of(encoder, (leaf - step * direction).detach().requires_grad_(), batch)
    assert float(ahead - back) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)
    assert float(distance) > 0
    assert not distance.requires_grad


def test_every_stage_has_its_share():
    class Two(nn.Module):
        def forward(self, x):
            return [torch.cat([x, x - 1], 1), torch.cat([x, 3 - x], 1)]

    batch = make_batch(0)
    leaf = leaf_of(batch)
    found, _ = pull_of(Two(), leaf, batch)
    maps = zip(Two()(leaf), Two()(batch.target), strict=True)
    each = [float(feature_distance(m.detach(), t, batch.mask)[0]) for m, t in maps]
    assert float(found) == pytest.approx(sum(each) / 2, rel=1e-5)


def test_nothing_outside_the_mask_counts():
    encoder, batch = CountingEncoder(), make_batch(0, mask=half_mask())
    leaf = leaf_of(batch)
    distance, gradient = pull_of(encoder, leaf, batch)
    assert not bool(gradient[batch.mask == 0].any())
    odd = torch.where(batch.mask > 0, leaf.detach(), 50.0).requires_grad_(True)
    again, same = pull_of(encoder, odd, batch)
    assert float(again) == float(distance)
    assert torch.equal(same, gradient)


def test_regression_adds_the_weighted_gradient():
    generator, encoder, batch = small_generator(), CountingEncoder(), make_batch(0)
    objective = Regression(make_context(encoder=encoder, perceptual=0.5))
    descent = objective.descend(generator, batch, torch.Generator())
    leaf, loss, fidelity = fidelity_gradient(generator(batch.source), batch)
    distance, pull = pull_of(encoder, leaf, batch)
    assert torch.equal(descent.cotangent, fidelity + 0.5 * pull)
    assert descent.metrics == {"fidelity": float(loss), "perceptual": float(distance)}


def test_without_weight_no_encoder_is_called_or_needed():
    encoder = CountingEncoder()
    weights = []
    for context in (make_context(encoder=encoder, perceptual=0), make_context()):
        generator, objective = small_generator(), Regression(context)
        assert objective.encoder is None
        descent = loop_step(generator, objective, adam(generator), 0)
        assert list(descent.metrics) == ["fidelity"]
        weights.append(list(generator.parameters()))
    assert encoder.calls == 0
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    batch = make_batch(0)
    generator = small_generator()
    descent = Regression(make_context()).descend(generator, batch, torch.Generator())
    assert torch.equal(descent.cotangent, fidelity_gradient(generator(batch.source), batch)[2])


@pytest.mark.parametrize(
    ("objective", "options", "needed"),
    [
        ("gdm", {}, True),
        ("regression", {}, False),
        ("regression", {"perceptual": 0.0}, False),
        ("regression", {"perceptual": 0.5}, True),
        ("gan", {}, False),
    ],
)
def test_an_encoder_is_made_only_where_it_is_used(objective, options, needed):
    assert needs_encoder(objective, options) is needed


# bfloat16 not of a single slice: torch's convolution is not safe there, see training.precision
@pytest.mark.parametrize(("size", "bf16"), [((1, 16, 12), False), ((5, 9, 7), True)])
def test_flat_patches_and_bfloat16_are_trained_on(size, bf16):
    source, target = torch.randn(2, 2, 1, *size)
    batch = Batch(source, target, torch.ones_like(target))
    objective = Regression(make_context(perceptual=1.0))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        descent = objective.descend(small_generator(), batch, torch.Generator())
    assert descent.finite
    assert descent.cotangent.dtype == torch.float32


def test_what_cannot_be_is_named():
    with pytest.raises(SettingError, match="perceptual must be at least 0, not -1"):
        Regression(make_context(perceptual=-1.0))
    context = make_context(perceptual=1.0)
    object.__setattr__(context, "encoder", None)
    with pytest.raises(TrainingError, match="needs a frozen encoder"):
        Regression(context)


def test_an_empty_mask_moves_nothing():
    batch = make_batch(0, mask=torch.zeros(2, 1, 8, 12, 16))
    distance, gradient = pull_of(CountingEncoder(), leaf_of(batch), batch)
    assert float(distance) == 0
    assert not bool(gradient.any())
