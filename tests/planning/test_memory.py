import pytest
import torch
from torch import nn

from gdmnet.networks.unet import Generator
from gdmnet.plan import Architecture
from gdmnet.planning.memory import (
    MAP_BYTES,
    PRESETS,
    choose_preset,
    device_gb_for,
    feature_map_voxels,
    largest_step_gb,
    make_architecture,
    most_samples,
    n_parameters,
    step_gb,
)
from gdmnet.planning.topology import topology

HEAD = ((1.0, 1.0, 1.0), (128, 128, 128))
PELVIS = ((2.5, 1.0, 1.0), (64, 256, 320))
SLICES = ((5.0, 0.7, 0.7), (24, 256, 256))


# From dynamic-network-architectures 0.4.4, ResidualEncoderUNet with one class, one convolution a
# decoder stage and deep supervision: compute_conv_feature_map_size of these patches.
@pytest.mark.parametrize(
    ("patient", "voxels"), [(HEAD, 553525760), (PELVIS, 1924063040), (SLICES, 675442560)]
)
def test_the_estimate_of_feature_maps_is_nnunets(patient, voxels):
    patch, kernels, strides = topology(*patient)
    architecture = make_architecture(PRESETS["M"], kernels, strides)
    assert feature_map_voxels(architecture, patch) == voxels


def test_the_estimate_counts_the_maps_of_the_real_network():
    architecture = Architecture(
        features=(4, 8, 12),
        kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        blocks=(1, 2, 3),
    )
    patch = (4, 16, 8)
    counted = []
    net = Generator(architecture, n_sources=2)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv3d) and ".reduce" not in name:
            module.register_forward_hook(lambda _m, _x, y: counted.append(y.numel()))
    net(torch.zeros(1, 2, *patch))
    raised = 4 * (4 * 16 * 8) + 8 * (4 * 8 * 4)  # interpolated maps, no convolution of their own
    side_output = 4 * 8 * 4  # of the coarser decoder stage, which only the reference has
    assert feature_map_voxels(architecture, patch) == sum(counted) + raised + side_output


@pytest.mark.parametrize("patient", [HEAD, PELVIS, SLICES])
def test_parameters_are_those_of_the_real_network(patient):
    _, kernels, strides = topology(*patient)
    for preset in ("cpu", "M"):
        architecture = make_architecture(PRESETS[preset], kernels, strides)
        with torch.device("meta"):
            net = Generator(architecture, n_sources=1)
        assert n_parameters(architecture) == sum(p.numel() for p in net.parameters())


def test_a_step_holds_the_state_and_the_maps():
    patch, kernels, strides = topology(*HEAD)
    architecture = make_architecture(PRESETS["M"], kernels, strides)
    state = 16 * n_parameters(architecture) / 2**30
    one, two = (step_gb(architecture, patch, n, "gdm") for n in (1, 2))
    maps = MAP_BYTES["gdm"] * feature_map_voxels(architecture, patch) / 2**30
    assert one == pytest.approx(state + maps)
    assert two == pytest.approx(state + 2 * maps)
    assert step_gb(architecture, patch, 1, "gdm", twin=True) == pytest.approx(one + state)


@pytest.mark.parametrize("memory", [2, 4, 8, 24, 80])
def test_the_largest_training_of_a_batch_fits_and_that_of_one_more_sample_does_not(memory):
    patch, kernels, strides = topology((1.0, 1.0, 1.0), (32, 32, 32))
    architecture = make_architecture(PRESETS["M"], kernels, strides)
    n = most_samples(architecture, patch, memory)
    assert n > 0
    needs = [device_gb_for(largest_step_gb(architecture, patch, m)) for m in (n, n + 1)]
    assert needs[0] <= memory < needs[1]
    assert 0.6 + 1.1 * largest_step_gb(architecture, patch, n) <= 0.95 * memory


def test_presets_double_their_features_up_to_a_limit():
    strides = ((1, 1, 1),) + ((2, 2, 2),) * 5
    large = make_architecture(PRESETS["L"], strides, strides)
    assert large.features == (32, 64, 128, 256, 320, 320)
    assert large.blocks == (1, 3, 4, 6, 6, 6)
    small = make_architecture(PRESETS["cpu"], strides[:4], strides[:4])
    assert small.features == (16, 32, 64, 128)
    assert small.blocks == (1, 2, 2, 2)


def test_every_preset_knows_the_memory_it_is_meant_for():
    assert {name: preset.memory_gb for name, preset in PRESETS.items() if name != "cpu"} == {
        "S": 4,
        "M": 8,
        "L": 24,
    }


@pytest.mark.parametrize(
    ("preset", "memory_gb", "device_gb", "expected"),
    [
        (None, None, None, ("cpu", 8.0, "no CUDA device")),
        (None, 24.0, None, ("cpu", 24.0, "no CUDA device")),
        ("L", None, None, ("L", 8.0, "--preset L was given")),
        (None, None, 7.4, ("S", 7.4, "7.4 GB by the CUDA device")),
        (None, None, 7.5, ("M", 7.5, "7.5 GB by the CUDA device")),
        (None, None, 20.0, ("L", 20.0, "20.0 GB by the CUDA device")),
        (None, 10.0, 80.0, ("M", 10.0, "10.0 GB by --memory")),
        (None, None, 139.8, ("L", 24.0, "24 of the 139.8 GB of the CUDA device")),
        (None, 80.0, 139.8, ("L", 80.0, "80.0 GB by --memory")),
    ],
)
def test_the_preset_goes_by_the_device_and_by_what_is_asked_for(
    preset, memory_gb, device_gb, expected
):
    *chosen, reason = choose_preset(preset, memory_gb, device_gb)
    assert chosen == list(expected[:2])
    assert reason.startswith(expected[2])
