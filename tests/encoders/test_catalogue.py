from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from encoders.fakes import (
    BODIES,
    MR,
    checkpoint,
    configuration,
    constant,
    fingerprint,
    plain_maps,
    residual_maps,
)
from torch.nn import functional

from gdmnet.encoders import build_encoder
from gdmnet.encoders.adapter import AxisLayout
from gdmnet.encoders.catalogue import nnunet_family
from gdmnet.encoders.networks import UNetEncoder, UNetStages
from gdmnet.errors import CheckpointError, PlanError, TrainingError

MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
FACTS = {"mean": -50.0, "std": 200.0, "percentile_00_5": -900.0, "percentile_99_5": 1300.0}
ARGUMENTS = {
    "n_stages": 3,
    "features_per_stage": [4, 6, 8],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": KERNELS,
    "strides": STRIDES,
    "n_conv_per_stage": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}


def plans(arguments=ARGUMENTS, kind="PlainConvUNet", **changes):
    chosen = {
        "spacing": [3.0, 1.0, 1.0],
        "patch_size": [8, 16, 16],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "configurations": {"3d_fullres": chosen | changes},
        "transpose_forward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "foreground_intensity_properties_per_channel": {"0": FACTS},
    }


def old_words(new):
    """The same plans as nnU-Net wrote them before version 2.5, as TotalSegmentator's are."""
    found = copy.deepcopy(new)
    chosen = found["configurations"]["3d_fullres"]
    arguments = chosen.pop("architecture")["arch_kwargs"]
    chosen.update(
        UNet_class_name="PlainConvUNet",
        UNet_base_num_features=4,
        unet_max_num_features=6,
        n_conv_per_stage_encoder=arguments["n_conv_per_stage"],
        n_conv_per_stage_decoder=[2, 2],
        num_pool_per_axis=[1, 2, 2],
        pool_op_kernel_sizes=arguments["strides"],
        conv_kernel_sizes=arguments["kernel_sizes"],
    )
    return found


def tensors_of(network):
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.randn(t.shape, generator=generator) / max(1, t[0].numel()) ** 0.5
        for key, t in network.state_dict().items()
    }


def put(content, place, value):
    """The plans with another value at a place, such as "configurations.3d_fullres.spacing"."""
    found = copy.deepcopy(content)
    *way, last = place.split(".")
    inner = found
    for key in way:
        inner = inner[key]
    inner[last] = value
    return found


def shape(features=(4, 6, 8), depths=(2, 2, 2), **changes):
    kernels, strides = (tuple(tuple(side) for side in sides) for sides in (KERNELS, STRIDES))
    return UNetStages(features, kernels, strides, depths, **changes)


def results_folder(tmp_path, content, tensors, *, folds=("fold_0",), name=MODEL):
    """A results folder as nnU-Net leaves it, with its aliases, its decoder and its logs."""
    folder = tmp_path / name
    for fold in folds:
        (folder / fold).mkdir(parents=True, exist_ok=True)
        weights = {f"encoder.{k}": t for k, t in tensors.items()}
        aliases = {
            k.replace(".conv.", ".all_modules.0."): t for k, t in weights.items() if ".conv." in k
        }
        decoder = {f"decoder.{k}": torch.zeros_like(t) for k, t in weights.items()}
        torch.save(
            {
                "network_weights": decoder | weights | aliases,
                "trainer_name": "nnUNetTrainer",
                "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(1)]},
                "init_args": {"plans": content, "device": torch.device("cpu")},
                "inference_allowed_mirroring_axes": (0, 1, 2),
            },
            folder / fold / "checkpoint_final.pth",
        )
    folder.mkdir(exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {}}))
    return folder


def build(folder, *, fp=BODIES, **changes):
    config = configuration(**({"patch": (10, 18, 16), "spacing": (3.0, 1.0, 1.0)} | changes))
    return build_encoder(
        f"nnunet:{folder}", weights=None, configuration=config, fingerprint=fp, stages=(0, 1, 2)
    )


def image(*size):
    return torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("old", [False, True])
def test_a_sites_own_model_is_an_encoder(tmp_path, old):
    features = (4, 6, 6) if old else (4, 6, 8)
    tensors = tensors_of(UNetEncoder(shape(features), 3))
    content = old_words(plans()) if old else plans()
    encoder = build(results_folder(tmp_path, content, tensors))
    assert encoder.report.channels == features
    assert encoder.report.strides == ((1, 1, 1), (1, 2, 2), (2, 4, 4))
    assert encoder.report.n_tensors == len(tensors)
    assert encoder.report.zoom == (1, 1, 1)
    x = image(10, 20, 16)  # divisible: nothing is padded
    hounsfield = (400 * x - 200).clamp(-900, 1300)
    wanted = plain_maps(tensors, (hounsfield + 50) / 200, STRIDES)
    for mine, theirs in zip(encoder(x), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    x = image(9, 18, 16)  # to (10, 20, 16)
    padded = functional.pad((400 * x - 200).clamp(-900, 1300), (0, 0, 0, 2, 0, 1), "replicate")
    wanted = plain_maps(tensors, (padded + 50) / 200, STRIDES)
    sizes = [(9, 18, 16), (9, 9, 8), (5, 5, 4)]
    for mine, theirs, (d, h, w) in zip(encoder(x), wanted, sizes, strict=True):
        torch.testing.assert_close(mine, theirs[:, :, :d, :h, :w], rtol=1e-4, atol=1e-5)


def test_a_residual_model_is_an_encoder(tmp_path):
    arguments = {**ARGUMENTS, "n_blocks_per_stage": [1, 2, 1]}
    del arguments["n_conv_per_stage"]
    tensors = tensors_of(UNetEncoder(shape(depths=(1, 2, 1), residual=True), 3))
    encoder = build(results_folder(tmp_path, plans(arguments, "ResidualEncoderUNet"), tensors))
    x = image(10, 20, 16)
    seen = ((400 * x - 200).clamp(-900, 1300) + 50) / 200
    wanted = residual_maps(tensors, seen, [1, (1, 2, 2), (2, 2, 2)], (1, 2, 1))
    for mine, theirs in zip(encoder(x), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_published_layout_is_read(tmp_path):
    arguments = {
        **ARGUMENTS,
        "features_per_stage": [32, 64, 128, 256, 320, 320],
        "kernel_sizes": [[3, 3, 3]] * 6,
        "strides": [1, 2, 2, 2, 2, 2],
        "n_conv_per_stage": 2,
    }
    folder = results_folder(tmp_path, plans(arguments), {})
    saved = checkpoint("nnunet_plain.pth", constant)
    torch.save(saved, folder / "fold_0/checkpoint_final.pth")
    encoder = build(folder)
    assert encoder.report.n_tensors == 48
    assert encoder.report.channels == (32, 64, 128)


def test_configurations_inherit(tmp_path):
    content = plans()
    content["configurations"]["3d_bs4"] = {"inherits_from": "3d_fullres", "spacing": [2, 1, 1]}
    tensors = tensors_of(UNetEncoder(shape(), 3))
    folder = results_folder(tmp_path, content, tensors, name="T__nnUNetPlans__3d_bs4")
    assert nnunet_family(folder)[0].spacing == (2, 1, 1)
    assert nnunet_family(folder)[0].network.channels == (4, 6, 8)


def test_z_scored_models_take_any_target_and_ct_models_only_ct(tmp_path):
    tensors = tensors_of(UNetEncoder(shape(), 3))
    content = plans(normalization_schemes=["ZScoreNormalization"], use_mask_for_norm=[True])
    scores = fingerprint((300.0, 100.0, 5.0, 10.0, 510.0, 600.0, 0.0, 0.5), name="T2")
    encoder = build(results_folder(tmp_path / "a", content, tensors), fp=scores, target=MR)
    assert encoder.encoder.intensities.scale == pytest.approx(500 / 100)
    assert encoder.encoder.intensities.offset == pytest.approx(-290 / 100)
    with pytest.raises(PlanError, match="was trained on CT"):
        build(results_folder(tmp_path / "b", plans(), tensors), target=MR)


def test_axes_follow_the_transposition_and_the_readers_orientation(tmp_path):
    content = plans() | {"transpose_forward": [2, 0, 1]}
    content["image_reader_writer"] = "NibabelIOWithReorient"
    tensors = tensors_of(UNetEncoder(shape(), 3))
    folder = results_folder(tmp_path, content, tensors)
    family, _ = nnunet_family(folder)
    assert family.layout == AxisLayout((2, 0, 1), (0, 2))  # x and y run the other way
    assert family.spacing == (3.0, 1.0, 1.0)  # along the network's axes: x is its first
    encoder = build(folder, spacing=(1.0, 1.0, 3.0), patch=(16, 16, 10))
    assert encoder.report.zoom == (1, 1, 1)
    assert encoder.report.strides[1:] == ((2, 2, 1), (4, 4, 2))
    x = image(16, 20, 10)
    seen = x.permute(0, 1, 4, 2, 3).flip(2, 4)
    seen = ((400 * seen - 200).clamp(-900, 1300) + 50) / 200
    for mine, theirs in zip(encoder(x), plain_maps(tensors, seen, STRIDES), strict=True):
        back = theirs.flip(2, 4).permute(0, 1, 3, 4, 2)
        torch.testing.assert_close(mine, back, rtol=1e-4, atol=1e-5)


def test_the_first_finished_fold_is_taken_unless_one_is_named(tmp_path):
    tensors = tensors_of(UNetEncoder(shape(), 3))
    folder = results_folder(tmp_path, plans(), tensors, folds=("fold_1", "fold_3", "fold_all"))
    (folder / "fold_0").mkdir()
    assert nnunet_family(folder)[1] == folder / "fold_1/checkpoint_final.pth"
    assert nnunet_family(folder / "fold_3")[1] == folder / "fold_3/checkpoint_final.pth"
    with pytest.raises(CheckpointError, match=r"no fold_K/checkpoint_final\.pth"):
        nnunet_family(folder / "fold_0")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (plans(kind="PrimusNet"), "its network is a PrimusNet"),
        (plans({**ARGUMENTS, "nonlin": "torch.nn.ReLU"}), "nonlin ReLU, not LeakyReLU"),
        (plans({**ARGUMENTS, "conv_op": "torch.nn.modules.conv.Conv2d"}), "conv_op Conv2d"),
        (plans({**ARGUMENTS, "nonlin_first": True}), "the options nonlin_first"),
        (plans({**ARGUMENTS, "strides": [[1, 1, 1]]}), "1 entries for 3 stages"),
        (plans(normalization_schemes=["RGBTo01Normalization"]), "RGBTo01Normalization is neither"),
        (plans(normalization_schemes=["CTNormalization"] * 2), "not as nnU-Net v2 writes it"),
        (plans() | {"foreground_intensity_properties_per_channel": {}}, "KeyError: '0'"),
        ({"configurations": {"2d": {}}}, "which is no configuration of its plans .2d."),
        ({"configurations": []}, "no configuration"),
        ([], "not as nnU-Net v2 writes it"),
    ],
)
def test_what_is_not_ours_is_refused_with_the_reason(tmp_path, content, words):
    folder = results_folder(tmp_path, content, tensors_of(UNetEncoder(shape(), 3)))
    with pytest.raises(CheckpointError, match=words) as problem:
        nnunet_family(folder)
    assert str(folder) in str(problem.value)
    assert "\n" not in str(problem.value)


def test_models_of_several_channels_and_incomplete_folders_are_refused(tmp_path):
    folder = results_folder(tmp_path, plans(), tensors_of(UNetEncoder(shape(), 3)))
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "T2"}}))
    with pytest.raises(CheckpointError, match=r"it takes 2 channels .T1, T2."):
        nnunet_family(folder)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"dataset\.json: not valid JSON"):
        nnunet_family(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(CheckpointError, match=r"dataset\.json: file not found"):
        nnunet_family(folder)


def test_the_folder_has_to_be_there_and_named_once(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone: not a folder; write --encoder nnunet:FOLDER"):
        build(tmp_path / "gone")
    config = configuration()
    with pytest.raises(CheckpointError, match="no folder named"):
        build_encoder("nnunet", weights=None, configuration=config)
    with pytest.raises(TrainingError, match="named twice"):
        build_encoder(f"nnunet:{tmp_path}", weights=tmp_path, configuration=config)


def test_weights_of_another_plan_are_refused(tmp_path):
    folder = results_folder(tmp_path, plans(), tensors_of(UNetEncoder(shape((4, 6, 7)), 3)))
    with pytest.raises(CheckpointError, match=r"8 of another shape .stages\.2\.0\.convs\.0"):
        build(folder)


def test_slope_and_bias_of_the_plans_count(tmp_path):
    content = plans({**ARGUMENTS, "conv_bias": False, "nonlin_kwargs": {"negative_slope": 0.3}})
    tensors = tensors_of(UNetEncoder(shape(bias=False), 3))
    encoder = build(results_folder(tmp_path, content, tensors))
    fine = encoder(image(10, 20, 16))[0]
    assert float(fine.min() / fine.max()) < -0.1  # .01 of a negative value is far less


CHOSEN = "configurations.3d_fullres"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (f"{CHOSEN}.spacing", [0.0, 1.0, 1.0], "a spacing of 0, 1, 1 mm"),
        (f"{CHOSEN}.spacing", [1e300, 1.0, 1.0], "a spacing of"),
        (f"{CHOSEN}.architecture.arch_kwargs.features_per_stage", [4, -6, 8], "a number of -6"),
        (f"{CHOSEN}.architecture.arch_kwargs.features_per_stage", [4, 1e300, 8], "a number of"),
        (f"{CHOSEN}.architecture.arch_kwargs.kernel_sizes", [[0, 3, 3]] * 3, "a number of 0"),
        (f"{CHOSEN}.architecture.arch_kwargs.strides", 0, "a number of 0"),
        (f"{CHOSEN}.architecture.arch_kwargs.strides", [[1, 1, 1e300]] * 3, "a number of"),
        (f"{CHOSEN}.architecture.arch_kwargs.n_conv_per_stage", [2, 0, 2], "a number of 0"),
        ("transpose_forward", [0, 0, 1], "axes in the order"),
        ("transpose_forward", [1, 2, 3], "axes in the order"),
        (
            "foreground_intensity_properties_per_channel.0",
            FACTS | {"percentile_00_5": 1300.0},
            "intensities from 1300 to 1300",
        ),
    ],
)
def test_numbers_that_no_network_has_are_refused(tmp_path, place, value, words):
    folder = results_folder(
        tmp_path, put(plans(), place, value), tensors_of(UNetEncoder(shape(), 3))
    )
    with pytest.raises(CheckpointError, match=f"not as nnU-Net v2 writes it .ValueError: {words}"):
        build(folder)
