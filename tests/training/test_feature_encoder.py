from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from encoders.fakes import BODIES, CT, checkpoint, narrow, needs_extra, write

from gdmnet.encoders import FrozenEncoder, build, freeze_norms
from gdmnet.errors import CheckpointError, SettingError, TrainingError
from gdmnet.models.checkpoint import weights_sha256
from gdmnet.plan import Architecture, Recipe
from gdmnet.training import feature_encoder
from gdmnet.training.feature_encoder import (
    chosen_encoder,
    log_origin,
    prepare_encoder,
    target_patches,
)
from gdmnet.training.fold import build_objective
from gdmnet.training.settings import EncoderSettings

CPU = torch.device("cpu")
CUBE = (3, 3, 3)


@pytest.fixture
def prepare(tmp_path, make_configuration, make_noise_case):
    config = make_configuration(
        (16, 16, 16),
        target=CT,
        spacing=(1.5, 1.5, 1.5),
        architecture=Architecture((4,) * 2, (CUBE,) * 2, ((1, 1, 1), (2, 2, 2)), (1, 1)),
    )
    cases = [make_noise_case((20, 20, 20), seed=s, name=f"c{s}") for s in range(2)]

    def training(seed=0, encoder_sha256=None, **run):
        run |= {"recipe": Recipe(2, 10, seed=seed), "encoder_sha256": encoder_sha256}
        return SimpleNamespace(
            run=SimpleNamespace(**run),
            configuration=config,
            encoder_folder=tmp_path / "self",
            cases=lambda: (cases, []),
            fingerprint=lambda: BODIES,
            process_device=lambda: CPU,
        )

    def made(choice, seed=0):
        return prepare_encoder(training(seed), choice)

    made.training = training
    made.cases, made.configuration, made.folder = cases, config, tmp_path / "self"
    return made


def read(monkeypatch, name):
    """From now on the encoder of this name has narrow weights, as the fakes."""
    monkeypatch.setitem(build.FAMILIES, name, narrow(name))


def test_the_default_is_trained_for_as_long_as_the_training_asks(prepare, monkeypatch):
    asked = []

    def train(*_, iterations, seed, precision, **__):
        asked.append((iterations, seed, precision))
        return FrozenEncoder(torch.nn.Identity())

    monkeypatch.setattr(feature_encoder, "pretrain_encoder", train)
    prepare(EncoderSettings())
    prepare(EncoderSettings(iterations=7), seed=3)
    assert asked == [(60, 0, "fp32"), (7, 3, "fp32")]


def test_a_self_trained_encoder_can_be_taken_from_a_file(prepare, tmp_path):
    first = prepare(EncoderSettings(iterations=2))
    again = prepare(EncoderSettings(weights=prepare.folder / "encoder.pt"))
    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(CheckpointError, match="gone"):
        prepare(EncoderSettings(weights=tmp_path / "gone.pt"))


def test_a_training_goes_on_with_the_encoder_it_began_with_on_a_device_that_trains_longer(
    prepare, monkeypatch
):
    monkeypatch.setattr(feature_encoder, "default_iterations", lambda *_, **__: 2)
    digest = weights_sha256(prepare(EncoderSettings()))
    monkeypatch.setattr(feature_encoder, "default_iterations", lambda *_, **__: 3)
    on = chosen_encoder(prepare.training(encoder_sha256=digest), EncoderSettings())
    assert weights_sha256(on) == digest
    assert weights_sha256(prepare(EncoderSettings(weights=prepare.folder / "encoder.pt"))) == digest
    assert weights_sha256(prepare(EncoderSettings())) != digest  # that of a new training


@needs_extra
def test_a_public_encoder_is_read_told_and_made_constant(prepare, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    file = write(tmp_path, "vista3d.pt", checkpoint("vista3d.pt"))
    read(monkeypatch, "vista3d")
    chosen = EncoderSettings("vista3d", weights=file, stages=(0, 2))
    encoder = prepare(chosen)
    assert [m.shape[1] for m in encoder(torch.zeros(1, 1, 16, 16, 16))] == [6, 24]
    log_origin(encoder)
    assert f"feature encoder: vista3d from {file} (sha256 " in caplog.text
    assert "maps of 6, 24 channels" in caplog.text
    constant = prepare(dataclasses.replace(chosen, norm_statistics="dataset"))
    norms = [m for m in constant.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert len(norms) == 2 * (1 + 2 + 2)
    assert "statistics of 10 normalisation layers are fixed" in caplog.text
    assert not any(p.requires_grad for p in constant.parameters())
    again = prepare(dataclasses.replace(chosen, norm_statistics="dataset"))
    assert all(
        torch.equal(a, b)
        for a, b in zip(constant.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_the_checksum_is_that_of_the_weights_however_a_device_rounds(
    prepare, tmp_path, monkeypatch
):
    """Else a training could not be continued on another device, or be told from another encoder."""
    file = write(tmp_path, "nnssl_resencl.pth", checkpoint("nnssl_resencl.pth"))
    read(monkeypatch, "nnssl_resencl")
    options = {"weights": str(file), "norm_statistics": "dataset"}
    training = prepare.training(
        objective="gdm", options={}, encoder="nnssl_resencl", encoder_options=options
    )
    objective, digest = build_objective(training)

    def elsewhere(encoder, patches):
        return freeze_norms(encoder, (patch * (1 + 1e-5) for patch in patches))

    monkeypatch.setattr(feature_encoder, "freeze_norms", elsewhere)
    other, again = build_objective(training)
    assert again == digest
    means = [
        {k: v for k, v in o.encoder.state_dict().items() if k.endswith("running_mean")}
        for o in (objective, other)
    ]
    assert means[0]
    assert any(not torch.equal(mean, means[1][name]) for name, mean in means[0].items())


def test_norm_statistics_are_a_known_word():
    with pytest.raises(SettingError, match="'batch' is unknown; take one of patch, dataset"):
        EncoderSettings("random", norm_statistics="batch")


@pytest.mark.parametrize("name", ["self", "random"])
def test_the_small_encoders_have_no_stages_to_choose(prepare, name):
    with pytest.raises(TrainingError, match=f"encoder {name}: uses all its maps"):
        prepare(EncoderSettings(name, stages=(0,)))


def test_random_weights_are_not_taken_for_those_of_a_file(prepare, tmp_path):
    with pytest.raises(TrainingError, match="encoder random: reads no weights"):
        prepare(EncoderSettings("random", weights=tmp_path / "mine.pt"))


@needs_extra
def test_the_cost_of_resampling_is_told(prepare, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    read(monkeypatch, "ctfm")
    file = write(tmp_path, "ctfm.safetensors", checkpoint("ctfm.safetensors"))
    log_origin(prepare(EncoderSettings("ctfm", weights=file)))
    assert "resampled to its spacing: 1.1 times the voxels" in caplog.text  # 1.5^3 / 3


def test_thirty_batches_of_real_targets_are_shown(prepare):
    first = list(target_patches(prepare.cases, prepare.configuration, 0, CPU))
    again = list(target_patches(prepare.cases, prepare.configuration, 0, CPU))
    other = next(iter(target_patches(prepare.cases, prepare.configuration, 1, CPU)))
    assert len(first) == 30
    assert first[0].shape == (2, 1, 16, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other)
    inner = first[0][first[0] != -1].numpy()
    assert np.isin(inner, np.concatenate([case.target.ravel() for case in prepare.cases])).all()
