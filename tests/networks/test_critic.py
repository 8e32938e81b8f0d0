from __future__ import annotations

import pytest
import torch

from gdmnet.networks.critic import Critic
from gdmnet.plan import Architecture


def architecture(*strides, kernels=None, features=4):
    n = len(strides) + 1
    return Architecture(
        (features,) * n, kernels or ((3, 3, 3),) * n, ((1, 1, 1), *strides), (1,) * n
    )


CUBE = architecture((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
MIXED = architecture((1, 2, 2), (2, 2, 1), kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)), features=3)
FLAT = architecture((1, 2, 2), (1, 2, 2), kernels=((1, 3, 3),) * 3)
ONE_STAGE = architecture()


@pytest.mark.parametrize(
    ("plan", "size", "scores"),
    [
        (CUBE, (16, 16, 24), (2, 2, 3)),
        (CUBE, (8, 8, 8), (1, 1, 1)),
        (CUBE, (1, 1, 1), (1, 1, 1)),
        (MIXED, (6, 16, 12), (3, 4, 6)),
        (MIXED, (5, 7, 3), (3, 2, 2)),
        (FLAT, (1, 32, 24), (1, 8, 6)),
        (FLAT, (5, 15, 18), (5, 4, 5)),
        (ONE_STAGE, (3, 4, 5), (3, 4, 5)),
    ],
)
def test_there_is_a_score_for_each_cell_and_every_voxel_counts(plan, size, scores):
    torch.manual_seed(1)
    image = torch.randn(2, 2, *size, requires_grad=True)
    critic = Critic(plan, 2)
    output = critic(image)
    assert output.shape == (2, 1, *scores)
    output.square().sum().backward()
    assert bool((image.grad != 0).all())
    assert all(torch.isfinite(p.grad).all() for p in critic.parameters())


def test_kernels_are_4_only_where_the_plan_halves():
    kernels = [m.kernel_size for m in Critic(MIXED, 2).modules() if hasattr(m, "kernel_size")]
    assert kernels == [(1, 4, 4), (4, 4, 3), (3, 3, 3), (3, 3, 3)]
    kernels = [m.kernel_size for m in Critic(FLAT, 2).modules() if hasattr(m, "kernel_size")]
    assert kernels == [(1, 4, 4), (1, 4, 4), (1, 3, 3), (1, 3, 3)]


@pytest.mark.parametrize(("features", "widths"), [(32, 64), (320, 64), (12, 24)])
def test_its_width_follows_the_generator_up_to_pix2pix(features, widths):
    plan = architecture((2, 2, 2), (2, 2, 2), (2, 2, 2), features=features)
    shapes = [p.shape[0] for p in Critic(plan, 2).parameters() if p.ndim == 5]
    assert shapes == [widths, 2 * widths, 4 * widths, 8 * widths, 1]


def test_slices_of_a_flat_plan_are_judged_alone():
    torch.manual_seed(2)
    critic = Critic(FLAT, 2)
    for module in critic.modules():  # the norm's statistics are the volume's
        if isinstance(module, torch.nn.InstanceNorm3d):
            module.forward = lambda x: x
    image = torch.randn(1, 2, 3, 8, 8)
    assert torch.allclose(critic(image)[:, :, 1:2], critic(image[:, :, 1:2]), atol=1e-6)


def test_the_first_layer_has_a_bias_and_the_others_a_norm_in_its_place():
    first, *others = Critic(CUBE, 2).layers
    image = torch.randn(1, 2, 4, 4, 4)
    plain = first.convolution(image)
    assert torch.equal(first(image), torch.where(plain > 0, plain, 0.2 * plain))
    assert first.convolution.bias is not None
    for layer in others:
        assert layer.convolution.bias is None
        assert isinstance(layer.norm, torch.nn.InstanceNorm3d)
