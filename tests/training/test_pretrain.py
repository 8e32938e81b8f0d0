from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from gdmnet.data.case import Case, CaseRecord
from gdmnet.data.store import StoredCase, open_case, save_case
from gdmnet.encoders.self_supervised import encoder_for, self_encoder
from gdmnet.errors import TrainingError
from gdmnet.geometry import Geometry
from gdmnet.plan import Architecture, Configuration, Normalisation
from gdmnet.training import feature_encoder
from gdmnet.training.feature_encoder import (
    default_iterations,
    flipped,
    hidden_share,
    pretrain_encoder,
    pretraining_patch,
    rate_share,
    sample,
    split_cases,
)

CPU = torch.device("cpu")
CUBE = (3, 3, 3)
TARGET = Normalisation("percentiles", 10.0, 20.0, None, None, background=-10.0)  # -1 in our units
BACKGROUND = -1.0


def stored(seed: int, shape=(20, 24, 28)) -> StoredCase:
    """A textured ball in air, as numpy arrays in place of blosc2's."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*((2 * np.arange(n) + 1) / n - 1 for n in shape), indexing="ij"))
    body = ((grid**2).sum(0) < 1).astype(np.uint8)
    texture = gaussian_filter(rng.normal(size=shape), (1.5, 1.5, 1.5))
    target = np.where(body, texture / texture.std(), BACKGROUND).astype(np.float32)[None]
    geometry = Geometry(shape, (1.0, 1.0, 1.0))
    box = tuple((0, n) for n in shape)
    record = CaseRecord(f"case_{seed}", geometry, box, (1.0, 1.0, 1.0), shape, "given", TARGET)
    centres = np.argwhere(body).astype(np.int32)
    return StoredCase(record, target, target, body, centres[rng.permutation(len(centres))[:50]])


def configuration(patch=(16, 16, 16), kernels=(CUBE,) * 3, second=(2, 2, 2)) -> Configuration:
    strides = ((1, 1, 1), second, second)
    architecture = Architecture((8, 8, 8), kernels, strides, (1, 1, 1))
    spacing = (4.0, 4.0, 4.0)
    return Configuration(
        "3d_fullres", spacing, patch, patch, 2, architecture, (TARGET,), TARGET, None, 0, {}
    )


CASES = [stored(seed) for seed in range(4)]


def make(folder, cases=CASES, config=None, iterations=3, seed=0, precision="fp32"):
    return pretrain_encoder(
        cases,
        config or configuration(),
        folder,
        iterations=iterations,
        seed=seed,
        device=CPU,
        precision=precision,
    )


def equal(first, second) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_forty_steps_beat_the_visible_mean(tmp_path):
    encoder = make(tmp_path, iterations=40)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["masked_mse"]["encoder"] < 0.9 * report["masked_mse"]["visible mean"]
    assert report["masked_mse"]["encoder"] < 0.9 * report["masked_mse"]["zero"]
    assert report["cases"] == ["case_3"]
    assert not any(p.requires_grad for p in encoder.parameters())
    read = self_encoder(configuration().architecture, file=tmp_path / "encoder.pt")
    assert equal(read, encoder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["encoder.pt", "report.json"]


def test_the_encoder_is_a_function_of_its_settings_and_leaves_torchs_generator_alone(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = make(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert equal(make(tmp_path / "b"), first)
    assert not equal(make(tmp_path / "c", seed=1), first)


def test_a_cached_encoder_is_reused_without_training(tmp_path, monkeypatch):
    first = make(tmp_path)

    def fail(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(feature_encoder, "train_autoencoder", fail)
    assert equal(make(tmp_path), first)
    reworded = dataclasses.replace(configuration(), reasons={"patch": "in other words"})
    assert equal(make(tmp_path, config=reworded), first)


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 4},
        {"seed": 1},
        {"cases": CASES[:3]},
        {"config": configuration(patch=(16, 16, 12))},
    ],
)
def test_other_settings_make_it_anew(tmp_path, monkeypatch, change):
    trained = []
    monkeypatch.setattr(feature_encoder, "train_autoencoder", lambda *_, **__: trained.append(1))
    make(tmp_path)
    make(tmp_path, **change)
    assert len(trained) == 2


def test_other_targets_under_the_same_names_make_it_anew(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(feature_encoder, "train_autoencoder", lambda *_, **__: trained.append(1))
    make(tmp_path)
    moved = [dataclasses.replace(case, target=np.roll(case.target, 1, 3)) for case in CASES]
    make(tmp_path, cases=moved)
    other = dataclasses.replace(CASES[0].record, target=dataclasses.replace(TARGET, scale=21.0))
    make(tmp_path, cases=[dataclasses.replace(moved[0], record=other), *moved[1:]])
    assert len(trained) == 3


@pytest.mark.parametrize(
    ("patch", "second", "device", "used"),
    [
        ((6, 72, 72), (1, 2, 2), "cpu", "fp32"),  # oneDNN corrupts memory there
        ((16, 16, 16), (2, 2, 2), "cpu", "bf16"),
        ((6, 72, 72), (1, 2, 2), "meta", "bf16"),
    ],
)
def test_flat_patches_are_not_computed_in_bf16_on_a_cpu(
    tmp_path, monkeypatch, patch, second, device, used
):
    class StoppedError(Exception):
        pass

    def watched(*_, precision, **__):
        assert precision == used
        raise StoppedError

    monkeypatch.setattr(feature_encoder, "train_autoencoder", watched)
    with pytest.raises(StoppedError):
        pretrain_encoder(
            CASES,
            configuration(patch=patch, second=second),
            tmp_path,
            iterations=1,
            seed=0,
            device=torch.device(device),
            precision="bf16",
        )


def test_a_damaged_file_is_made_anew_and_named(tmp_path, caplog):
    first = make(tmp_path)
    file = tmp_path / "encoder.pt"
    file.write_bytes(file.read_bytes()[:1000])
    assert equal(make(tmp_path), first)
    assert "encoder.pt" in caplog.text


def test_a_useless_encoder_is_not_left_behind(tmp_path):
    flat = [
        dataclasses.replace(case, target=np.full_like(case.target, np.nan)) for case in CASES[:1]
    ]
    with pytest.raises(TrainingError, match="not finite"):
        make(tmp_path, cases=flat)
    assert not (tmp_path / "encoder.pt").exists()


def test_single_slices_and_bf16_work(tmp_path):
    thin = [stored(seed, (1, 24, 28)) for seed in range(2)]
    flat = configuration((1, 16, 16), kernels=((1, 3, 3),) * 3, second=(1, 2, 2))
    encoder = make(tmp_path, cases=thin, config=flat, precision="bf16")
    assert [tuple(m.shape[2:]) for m in encoder(torch.zeros(1, 1, 1, 16, 16))] == [
        (1, 16, 16),
        (1, 8, 8),
        (1, 4, 4),
    ]


def test_cases_on_disk_give_the_same_patches_as_arrays(tmp_path):
    case = CASES[0]
    save_case(tmp_path, Case(case.record, case.source, case.target, case.body), (16, 16, 16))
    on_disk = dataclasses.replace(open_case(tmp_path, "case_0"), centres=case.centres)
    expected = sample([case], (8, 12, 16), 3, np.random.default_rng(0))
    found = sample([on_disk], (8, 12, 16), 3, np.random.default_rng(0))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_patches_are_pieces_of_the_target_with_their_own_body():
    images, bodies = sample(CASES[:1], (6, 8, 10), 20, np.random.default_rng(0))
    assert images.shape == bodies.shape == (20, 1, 6, 8, 10)
    assert images.dtype == torch.float32
    assert bodies.dtype == torch.bool
    assert (images[~bodies] == BACKGROUND).all()
    assert (images[bodies] != BACKGROUND).all()
    whole = CASES[0].target[0]
    windows = np.lib.stride_tricks.sliding_window_view(whole, (6, 8, 10))
    found = (windows[..., :2, :2, :2] == images[0, 0, :2, :2, :2].numpy()).all((3, 4, 5))
    assert any((windows[tuple(p)] == images[0, 0].numpy()).all() for p in np.argwhere(found))


def test_patches_hold_enough_body_where_that_is_possible():
    case = stored(0, (40, 40, 40))
    corner = np.argwhere(case.body).min(0)  # at the ball's edge: patches there hold little body
    edge = [[int(corner[0]), 20, 20]] * 4 + [[20, 20, 20]]
    case = dataclasses.replace(case, centres=np.array(edge, np.int32))
    _, bodies = sample([case], (24, 24, 24), 20, np.random.default_rng(0))
    assert float(bodies.float().mean((1, 2, 3, 4)).min()) >= 0.3


def test_small_volumes_are_padded_with_their_background():
    images, bodies = sample([stored(0, (6, 8, 10))], (12, 12, 12), 1, np.random.default_rng(0))
    assert images.shape == (1, 1, 12, 12, 12)
    assert (images[0, 0, :3] == BACKGROUND).all()
    assert not bodies[0, 0, :3].any()
    assert bodies[0, 0, 3:9, 2:10, 1:11].any()


def test_iterations_are_about_a_minute_of_cpu_and_grow_with_the_cases_on_a_gpu():
    assert default_iterations(100, CPU) == 60
    assert default_iterations(1000, CPU) == 200
    assert default_iterations(100_000, CPU) == 400
    gpu = torch.device("cuda")
    assert default_iterations(1000, gpu) == 5000
    assert default_iterations(1000, gpu, n_cases=50) == 10_000
    assert default_iterations(1000, gpu, n_cases=1000) == 30_000


def test_large_patches_are_cut_down_and_small_ones_stay():
    assert pretraining_patch((48, 48, 48)) == (48, 48, 48)
    assert pretraining_patch((1, 512, 512)) == (1, 512, 512)
    assert pretraining_patch((128, 128, 128)) == (64, 64, 64)
    assert pretraining_patch((20, 320, 256)) == (20, 80, 128)
    assert math.prod(pretraining_patch((129, 255, 77))) <= 64**3


def test_of_four_or_more_cases_every_eighth_is_held_out():
    for n in (4, 8, 11, 12, 20):
        training, judging = split_cases(list(range(n)))
        assert sorted([*training, *judging]) == list(range(n))
        assert len(judging) == (n + 4) // 8
    assert split_cases([1, 2, 3]) == ([1, 2, 3], [1, 2, 3])


def test_the_rate_rises_then_falls_to_a_twentieth():
    shares = [rate_share(step, 100) for step in range(100)]
    assert shares[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert all(a >= b for a, b in itertools.pairwise(shares[9:]))
    assert shares[-1] == pytest.approx(0.05, abs=0.002)
    assert rate_share(0, 1) == 1


def test_the_encoder_does_not_see_what_it_has_to_guess(tmp_path, monkeypatch):
    zeros = []
    real = feature_encoder.encoder_for

    def watched(*args, **kwargs):
        encoder = real(*args, **kwargs)
        encoder.register_forward_pre_hook(
            lambda _, inputs: zeros.append(float((inputs[0] == 0).float().mean()))
        )
        return encoder

    monkeypatch.setattr(feature_encoder, "encoder_for", watched)
    monkeypatch.setattr(feature_encoder, "judge", lambda *_: {})
    make(tmp_path, iterations=10)
    assert zeros[:9] == [38 / 64] * 9  # .6 of 4^3 cells; the phantom itself has no zeros
    assert 0 < zeros[9] < 38 / 64


def test_only_hidden_voxels_in_the_body_are_learnt_from(tmp_path, monkeypatch):
    real, seen = feature_encoder.masked_error, []

    def watched(prediction, images, mask):
        seen.append(bool(mask.any() and (images[mask] != BACKGROUND).all()))
        return real(prediction, images, mask)

    monkeypatch.setattr(feature_encoder, "masked_error", watched)
    make(tmp_path, iterations=3)
    assert seen == [True] * 3


def test_the_averaged_weights_are_the_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_encoder.WeightAverage, "update", lambda *_: None)
    untouched = encoder_for(configuration().architecture, seed=0)
    assert equal(make(tmp_path).encoder, untouched)


def test_a_patch_and_its_body_are_mirrored_together():
    images, bodies = sample(CASES, (6, 8, 10), 2, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(20):
        mirrored, mirrored_bodies = flipped(images, bodies, rng)
        assert (mirrored[~mirrored_bodies] == BACKGROUND).all()
        assert (mirrored[mirrored_bodies] != BACKGROUND).all()
        seen.add(mirrored.numpy().tobytes())
    assert len(seen) == 8


def test_the_last_tenth_of_the_steps_hides_less():
    rng = np.random.default_rng(0)
    shares = [hidden_share(step, 100, rng) for step in range(100)]
    assert shares[:90] == [0.6] * 90
    assert len(set(shares[90:])) == 10
    assert all(0 <= share < 0.6 for share in shares[90:])
