from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoders.fakes import (
    BODIES,
    LAYOUTS,
    MR,
    ORACLES,
    checkpoint,
    configuration,
    constant,
    narrow,
    shapes,
    write,
)

from gdmnet.encoders import ENCODERS, build_encoder, list_encoders
from gdmnet.encoders.build import Request, load_family
from gdmnet.encoders.catalogue import FAMILIES
from gdmnet.encoders.weights import read_tensors, sha256, take
from gdmnet.errors import CheckpointError, PlanError, TrainingError
from gdmnet.objectives.base import Batch, Context
from gdmnet.objectives.build import OBJECTIVES

ONE_A_FAMILY = [
    "ctfm.safetensors",
    "nnssl_resencl.pth",
    "vista3d.pt",
    "medicalnet18.pth",
]


def load(file, name, *, stages=None, resample=True, **changes):
    request = Request(name, file, configuration(**changes), BODIES, 0, stages, resample)
    return load_family(request, narrow(name), file)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A fake of every layout."""
    folder = tmp_path_factory.mktemp("fakes")
    return {layout: write(folder, layout, checkpoint(layout)) for layout in LAYOUTS}


def image(*shape):
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(5))


def ras(x):
    return x.permute(0, 1, 4, 3, 2).flip(2, 3)


def test_resampling_can_be_switched_off(files):
    coarse = {"spacing": (3.0, 4.7, 4.7), "patch": (16, 16, 16)}
    resampled = load(files["ctfm.safetensors"], "ctfm", **coarse)
    as_it_is = load(files["ctfm.safetensors"], "ctfm", resample=False, **coarse)
    assert resampled.report.zoom == pytest.approx((1.0, 4.7, 4.7))
    assert as_it_is.report.zoom == (1.0, 1.0, 1.0)
    assert as_it_is(image(16, 16, 16))[0].shape[2:] == (16, 16, 16)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_public_layout_is_read_and_computes_what_its_network_does(files, layout):
    name, prefix, n_tensors = LAYOUTS[layout]
    family = narrow(name)
    spacing = family.spacing or (0.7, 2.0, 1.0)
    encoder = load(files[layout], name, stages=range(family.n_stages), spacing=spacing)
    report = encoder.report
    assert (report.prefix, report.n_tensors) == (prefix, n_tensors)
    assert report.n_others == len(read_tensors(files[layout])) - n_tensors
    assert report.sha256 == sha256(files[layout])
    tensors = take(read_tensors(files[layout]), family.anchor, file=Path(), name=name).tensors
    x = image(64, 32, 32)
    seen = encoder.encoder.mapping.scale * x + encoder.encoder.mapping.offset
    seen = seen.clamp(encoder.encoder.mapping.low, encoder.encoder.mapping.high)
    wanted = ORACLES[name](tensors, ras(seen) if name == "vista3d" else seen)
    maps = encoder(x)
    assert len(maps) == len(wanted) == len(report.channels)
    for mine, theirs in zip(maps, wanted, strict=True):
        if name == "vista3d":
            theirs = theirs.flip(2, 3).permute(0, 1, 4, 3, 2)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["medicalnet18.pth", "medicalnet50.pth"])
def test_shortcuts_pass_gradients_on(files, layout):
    """Where a shortcut is detached, outputs are right and gradients are not."""
    name = LAYOUTS[layout][0]
    encoder = load(files[layout], name, stages=(4,), patch=(32, 32, 32))
    tensors = take(read_tensors(files[layout]), narrow(name).anchor, file=Path(), name=name).tensors
    x = image(32, 32, 32).requires_grad_(True)
    mapped = encoder.encoder.mapping
    (mine,) = torch.autograd.grad(encoder(x)[0].square().sum(), x)
    theirs = ORACLES[name](tensors, mapped.scale * x + mapped.offset)[-1]
    (wanted,) = torch.autograd.grad(theirs.square().sum(), x)
    torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_networks_have_the_published_sizes(layout):
    name, prefix, _ = LAYOUTS[layout]
    tensors = {
        key.rpartition("/")[2]: torch.empty(shape, device="meta")
        for key, shape in shapes(layout).items()
        if shape is not None
    }
    found = take(tensors, FAMILIES[name].anchor, file=Path(layout), name=name)
    with torch.device("meta"):
        whole = FAMILIES[name].network(FAMILIES[name].n_stages)
    assert found.prefix == prefix
    assert {k: t.shape for k, t in found.tensors.items()} == {
        k: t.shape for k, t in whole.state_dict().items()
    }


def test_resnet34_is_resnet18_with_more_blocks():
    family = FAMILIES["medicalnet_resnet34"]
    with torch.device("meta"):
        whole = family.network(5)
    assert len(whole.state_dict()) == 5 + 16 * 10
    assert [len(whole.get_submodule(f"layer{n}")) for n in (1, 2, 3, 4)] == [3, 4, 6, 3]


@pytest.mark.parametrize("layout", ONE_A_FAMILY)
def test_one_missing_one_more_one_misshapen_or_infinite_tensor_is_refused_by_name(tmp_path, layout):
    name, prefix, _ = LAYOUTS[layout]

    whole = checkpoint(layout)
    level = next((k for k in ("state_dict", "network_weights") if k in whole), None)

    def refused(change, *words):
        tensors = dict(whole[level] if level else whole)
        content = {**whole, level: tensors} if level else tensors
        keys = [k for k in tensors if k.startswith(prefix) and k.endswith("conv2.weight")]
        keys += [k for k in tensors if k.startswith(prefix) and k.endswith("conv2.conv.weight")]
        change(tensors, keys[-1])
        with pytest.raises(CheckpointError) as problem:
            load(write(tmp_path, layout, content), name)
        key = keys[-1].removeprefix(prefix)
        assert all(word in str(problem.value) for word in (layout, key, *words))
        assert "\n" not in str(problem.value)

    refused(lambda t, k: t.pop(k), "1 missing", "0 unexpected")
    refused(lambda t, k: t.update({k + "_more": torch.ones(2)}), "1 unexpected", "_more")
    refused(lambda t, k: t.update({k: t[k][:1]}), "1 of another shape")
    refused(lambda t, k: t.update({k: t[k] * torch.inf}), "not finite")


def test_a_file_of_something_else_is_refused(files):
    for layout, name in (("medicalnet18.pth", "ctfm"), ("ctfm.safetensors", "nnssl_resencl")):
        with pytest.raises(CheckpointError, match=f"{layout}: not the weights of {name}"):
            load(files[layout], name)
    with pytest.raises(CheckpointError, match=r"does not fit encoder vista3d .*of another shape"):
        load(files["ctfm.safetensors"], "vista3d")
    with pytest.raises(CheckpointError, match="does not fit encoder medicalnet_resnet10"):
        load(files["medicalnet18.pth"], "medicalnet_resnet10")


@pytest.mark.parametrize("layout", ONE_A_FAMILY)
def test_fewer_stages_are_the_first_of_all(files, layout):
    name = LAYOUTS[layout][0]
    x = image(32, 32, 32)
    kwargs = {"spacing": narrow(name).spacing or (1.0, 1.0, 1.0)}
    whole = load(files[layout], name, stages=(0, 1, 2, 3, 4), **kwargs)(x)
    some = load(files[layout], name, stages=(1, 3), **kwargs)
    assert len(some.encoder.network.channels) == 4
    for mine, stage in zip(some(x), (1, 3), strict=True):
        torch.testing.assert_close(mine, whole[stage])
    fewer = load(files[layout], name, stages=(0,), **kwargs)
    torch.testing.assert_close(fewer(x)[0], whole[0])
    n = [len(encoder.state_dict()) for encoder in (fewer, some)]
    assert n[0] < n[1] < LAYOUTS[layout][2]


@pytest.mark.parametrize("stages", [(2, 1), (0, 0), (5,), (-1, 0)])
def test_stages_that_are_not_there_are_refused(files, stages):
    with pytest.raises(TrainingError, match="rising numbers of 0 to 4"):
        load(files["ctfm.safetensors"], "ctfm", stages=stages)


@pytest.mark.parametrize(
    ("patch", "spacing", "n"),
    [
        ((64, 64, 64), (3.0, 1.0, 1.0), 5),
        ((32, 64, 64), (3.0, 1.0, 1.0), 4),
        ((16, 64, 64), (3.0, 1.0, 1.0), 3),
        ((3, 64, 64), (3.0, 1.0, 1.0), 1),
        ((1, 64, 64), (3.0, 1.0, 1.0), 5),
        ((64, 64, 64), (1.0, 1.0, 1.0), 3),  # 21 voxels of 3 mm
    ],
)
def test_maps_too_small_for_statistics_are_left_out(files, patch, spacing, n):
    encoder = load(files["ctfm.safetensors"], "ctfm", patch=patch, spacing=spacing)
    assert encoder.report.stages == tuple(range(n))
    assert len(encoder(image(*patch))) == n


@pytest.mark.parametrize(
    ("layout", "spacing"),
    [
        ("ctfm.safetensors", (3.0, 1.0, 1.0)),
        ("ctfm.safetensors", (1.0, 0.3, 0.4)),
        ("vista3d.pt", (0.5, 0.7, 3.0)),
        ("nnssl_resencl.pth", (0.5, 0.5, 0.5)),
        ("medicalnet18.pth", (3.0, 1.0, 1.0)),
    ],
)
def test_every_voxel_gets_a_gradient_and_no_weight_does(files, layout, spacing):
    encoder = load(files[layout], LAYOUTS[layout][0], patch=(24, 40, 32), spacing=spacing)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    x = (0.2 * image(24, 40, 32) + 0.4).requires_grad_(True)
    maps = encoder(x)
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert float((x.grad != 0).float().mean()) > 0.99
    assert bool(x.grad.isfinite().all())
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())


def test_maps_are_float32_under_autocast_and_the_image_is_mapped_in_full_precision(files):
    encoder = load(files["ctfm.safetensors"], "ctfm", spacing=(1.0, 1.0, 1.0))
    seen = []
    encoder.encoder.network.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    x = image(32, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        maps = encoder(x)
    encoder(x)
    assert all(m.dtype == torch.float32 for m in maps)
    assert torch.equal(seen[0], seen[1])


def test_mirrored_images_are_not_the_same_to_an_encoder_and_axes_are_kept_apart(files):
    encoder = load(files["vista3d.pt"], "vista3d", spacing=(1.5,) * 3, patch=(16, 24, 32))
    x = image(16, 24, 32)
    fine = encoder(x)[0]
    assert fine.shape[2:] == x.shape[2:]
    for axis in (2, 3, 4):
        assert not torch.allclose(encoder(x.flip(axis))[0].flip(axis), fine, atol=1e-3)
    touched = x.clone()
    touched[..., 2, 20, 5] += 3
    changed = (encoder(touched)[0] - fine).abs().sum(1)[0]
    place = torch.nonzero(changed == changed.max())[0]
    assert int((place - torch.tensor([2, 20, 5])).abs().max()) <= 2


def test_building_draws_nothing_from_torchs_generator(files):
    before = torch.get_rng_state()
    load(files["ctfm.safetensors"], "ctfm")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("layout", ["ctfm.safetensors", "vista3d.pt"])
def test_encoders_of_ct_refuse_targets_without_hounsfield_units(files, layout):
    with pytest.raises(PlanError, match="was trained on CT in HU"):
        load(files[layout], LAYOUTS[layout][0], target=MR)


def test_gdm_descends_with_a_public_encoder(files):
    encoder = load(files["nnssl_resencl.pth"], "nnssl_resencl", patch=(16, 20, 24))
    context = Context(
        total_steps=10,
        patch_size=(16, 20, 24),
        spacing=(1.0, 1.0, 1.0),
        n_sources=1,
        encoder=encoder,
        seed=0,
        options={"regression_share": 0.0},
    )
    gdm = OBJECTIVES["gdm"](context)
    generator = torch.nn.Conv3d(1, 1, 3, padding=1)
    x = torch.randn(2, 1, 16, 20, 24)
    batch = Batch(x, 0.5 * x + 0.1, torch.ones_like(x))
    found = [gdm.descend(generator, batch, torch.Generator().manual_seed(0)) for _ in range(10)][-1]
    assert found.metrics["norm_drift"] > 0
    assert bool(found.cotangent.isfinite().all())


def test_names_lead_to_encoders_and_unknown_ones_are_refused(tmp_path, monkeypatch):
    config = configuration()
    assert build_encoder("random", weights=None, configuration=config).report.name == "random"
    with pytest.raises(TrainingError, match="encoder nonsense: unknown; use one of self, random"):
        build_encoder("nonsense", weights=None, configuration=config)
    with pytest.raises(CheckpointError, match="--encoder-only"):
        build_encoder("self", weights=None, configuration=config)
    with pytest.raises(CheckpointError, match=r"ctfm: no weights .*ct_fm_feature_extractor.*\$gdm"):
        build_encoder("ctfm", weights=None, configuration=config)
    monkeypatch.setenv("gdmnet_encoders", str(tmp_path))
    (tmp_path / "ctfm").mkdir()
    write(tmp_path / "ctfm", "ctfm.safetensors", checkpoint("ctfm.safetensors"))
    (tmp_path / "ctfm/ctfm.safetensors").rename(tmp_path / "ctfm/model.safetensors")
    with pytest.raises(CheckpointError, match="of another shape"):  # found; the fake is narrower
        build_encoder("ctfm", weights=None, configuration=config)
    assert {row.name: row.found for row in list_encoders() if row.found} == {
        "ctfm": tmp_path / "ctfm/model.safetensors"
    }
    assert {row.name for row in list_encoders()} == set(ENCODERS)


@pytest.mark.parametrize("layout", ["nnssl_resencl.pth", "medicalnet50.pth"])
def test_full_sized_files_are_read_by_name(tmp_path, layout):
    name, _, n_tensors = LAYOUTS[layout]
    file = write(tmp_path, layout, checkpoint(layout, constant))
    encoder = build_encoder(
        name, weights=tmp_path, configuration=configuration(), fingerprint=BODIES
    )
    assert encoder.report.file == str(file)
    assert encoder.report.n_tensors == n_tensors
    first = {"nnssl_resencl.pth": (32, 64, 128), "medicalnet50.pth": (64, 256, 512)}
    assert encoder.report.channels[:3] == first[layout]
