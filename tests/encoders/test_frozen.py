from __future__ import annotations

import pytest
import torch
from encoders.fakes import build_narrow, checkpoint, configuration, narrow, needs_extra, write
from torch import nn

from gdmnet.encoders import build_encoder, freeze_norms


def image(*shape, seed=5):
    return torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(seed))


class Normed(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first = nn.Conv3d(1, 8, 3, padding=1)
        self.norm = norm
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias, 0, 0.3)

    def forward(self, x):
        return [self.norm(self.first(x))]


@pytest.mark.parametrize("norm", [nn.InstanceNorm3d(8, affine=True), nn.GroupNorm(4, 8)])
def test_frozen_statistics_are_those_of_the_patches_they_were_measured_on(norm):
    encoder = Normed(norm)
    x = image(6, 7, 8)[:1]
    before = encoder(x)[0]
    assert freeze_norms(encoder, [x]) == 1
    assert isinstance(encoder.norm, nn.BatchNorm3d)
    torch.testing.assert_close(encoder(x)[0], before, rtol=1e-4, atol=1e-5)
    assert freeze_norms(encoder, [x]) == 0


def test_statistics_are_pooled_over_all_patches_and_contrast_passes_through():
    encoder = Normed(nn.InstanceNorm3d(8, affine=True)).requires_grad_(False)
    patches = [image(6, 7, 8, seed=s) * (1 + s) for s in range(5)]
    seen = torch.cat([encoder.first(p).movedim(1, 0).flatten(1) for p in patches], dim=1)
    weight, bias, x = encoder.norm.weight, encoder.norm.bias, patches[0]
    freeze_norms(encoder, patches)
    mean, variance = seen.mean(1), seen.var(1, correction=0)
    wanted = nn.functional.batch_norm(encoder.first(x), mean, variance, weight, bias)
    torch.testing.assert_close(encoder(x)[0], wanted, rtol=1e-4, atol=1e-5)
    spread = [float(encoder(factor * x)[0].std(dim=(2, 3, 4)).mean()) for factor in (1, 2)]
    assert spread[1] == pytest.approx(2 * spread[0], rel=0.05)


def test_layers_without_scale_and_no_patches():
    encoder = nn.Sequential(nn.InstanceNorm3d(1))
    with pytest.raises(ValueError, match="no patches"):
        freeze_norms(encoder, [])
    x = image(5, 5, 5)[:1]
    before = encoder(x)
    freeze_norms(encoder, [x])
    torch.testing.assert_close(encoder(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layout", "n_norms"),
    [
        ("nnssl_resencl", "nnssl_resencl.pth", 1 + 2 + 7 + 9),
        pytest.param("ctfm", "ctfm.safetensors", 0, marks=needs_extra),
        pytest.param("voco_b", "voco_b.pt", 2, marks=needs_extra),
    ],
)
def test_a_public_encoder_is_frozen_whole_and_batch_norm_is_left_alone(
    tmp_path, name, layout, n_norms
):
    patches = [image(16, 16, 16, seed=s) for s in range(3)]
    file, family = write(tmp_path, layout, checkpoint(layout)), narrow(name)
    config = configuration((16, 16, 16), spacing=family.spacing)
    encoder = build_narrow(name, file, config)
    before = [m.std() for m in encoder(patches[0])]
    assert freeze_norms(encoder, patches) == n_norms
    assert not any(isinstance(m, nn.InstanceNorm3d) for m in encoder.modules())
    for old, new in zip(before, encoder(patches[0]), strict=True):
        assert 0.5 * old < new.std() < 2 * old
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_network_without_norms_is_left_alone():
    plain = build_encoder("random", weights=None, configuration=configuration())
    assert freeze_norms(plain, [image(16, 16, 16)]) == 0
