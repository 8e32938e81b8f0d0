from __future__ import annotations

import json
import logging

import pytest
import torch
from torch import nn

from gdmnet import codec
from gdmnet.encoders.self_supervised import decoder_for, encoder_for
from gdmnet.errors import TrainingError
from gdmnet.plan import Architecture, Normalisation
from gdmnet.training.usefulness import (
    EncoderReport,
    Figure,
    HeldOut,
    judge,
    masked_mse,
    tissue_edges,
)

CUBE = (3, 3, 3)
PLAN = Architecture((8, 8, 8), (CUBE,) * 3, ((1, 1, 1), (2, 2, 2), (2, 2, 2)), (1, 1, 1))


@pytest.fixture
def held_out() -> HeldOut:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(4, 1, 4, 4, 4, generator=generator)
    images = nn.functional.interpolate(coarse, size=(8, 16, 12), mode="trilinear")
    bodies = torch.ones_like(images, dtype=torch.bool)
    bodies[:, :, :, :3] = False
    return HeldOut(("case_1",), images, bodies, (2, 4, 2), (-0.3, 0.0, 0.3))


def parts(seed: int = 0):
    encoder = encoder_for(PLAN, seed=seed)
    return encoder, decoder_for(encoder, seed=seed), encoder_for(PLAN, seed=seed + 1)


def test_failed_figures_are_one_warning_line_and_stand_in_the_report(held_out, caplog):
    encoder, decoder, twin = parts()
    with caplog.at_level(logging.WARNING):
        report = judge(encoder, decoder, twin, held_out)
    assert "masked error against Gaussian in-painting" in report.failed  # it was never trained
    (line,) = (record.getMessage() for record in caplog.records)
    n_failed, n_figures = len(report.failed), len(report.figures)
    assert line.startswith(f"warning: feature encoder: {n_failed} of {n_figures} figures are poor")
    assert all(name in line for name in report.failed)
    assert "\n" not in line
    assert codec.decode(EncoderReport, json.loads(json.dumps(codec.encode(report)))) == report


def test_a_zeroed_encoder_stops_the_training(held_out):
    encoder, decoder, twin = parts()
    for parameter in encoder.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(TrainingError, match="same everywhere"):
        judge(encoder, decoder, twin, held_out)


def test_one_dead_channel_stops_the_training_and_its_map_is_named(held_out):
    encoder, decoder, twin = parts()
    with torch.no_grad():
        encoder.convolutions[1].weight[3] = 0
    with pytest.raises(TrainingError, match="1 channels of its map 1"):
        judge(encoder, decoder, twin, held_out)


def test_weights_that_are_not_finite_stop_the_training(held_out):
    encoder, decoder, twin = parts()
    with torch.no_grad():
        encoder.convolutions[2].weight[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(TrainingError, match="not finite"):
        judge(encoder, decoder, twin, held_out)


def test_a_lost_gradient_stops_the_training(held_out):
    class Deaf(nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, x):
            return [m + 0 * x.mean() for m in self.encoder(x.detach())]

    encoder, decoder, twin = parts()
    with pytest.raises(TrainingError, match="no gradient"):
        judge(Deaf(encoder), decoder, twin, held_out)


def test_errors_are_those_of_hidden_voxels_in_the_body(held_out):
    encoder, decoder, _ = parts()
    errors = masked_mse(encoder, decoder, held_out)
    assert errors["encoder"] == errors["zero"]  # the decoder's first image is zero
    assert errors["in-painting"] < errors["visible mean"]
    changed = torch.where(held_out.bodies, held_out.images, held_out.images + 9)
    outside = HeldOut(("case_1",), changed, held_out.bodies, held_out.cell, held_out.edges)
    assert masked_mse(encoder, decoder, outside)["zero"] == pytest.approx(errors["zero"])


def test_figures_pass_on_the_right_side_of_their_limit():
    assert Figure("a", 0.5, "at most", 0.8).passed
    assert not Figure("a", 0.9, "at most", 0.8).passed
    assert Figure("a", 0.9, "at least", 0.8).passed
    assert not Figure("a", 0.5, "at least", 0.8).passed
    assert not Figure("a", float("nan"), "at most", 0.8).passed


def test_tissue_borders_are_hounsfield_units_for_ct_and_quartiles_else(held_out):
    ct = Normalisation("ct", -100.0, 400.0, -1000.0, 2000.0, -1000.0)
    edges = tissue_edges(ct, held_out.images, held_out.bodies)
    assert [round(e * 400 - 100) for e in edges] == [-300, -20, 150]
    mr = Normalisation("percentiles", 0.0, 1.0, None, None, 0.0)
    low, median, high = tissue_edges(mr, held_out.images, held_out.bodies)
    inside = held_out.images[held_out.bodies]
    assert float((inside < median).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(((inside > low) & (inside < high)).float().mean()) == pytest.approx(0.5, abs=0.01)
