from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from encoders.fakes import (
    BODIES,
    KEYS,
    LAYOUTS,
    MR,
    ORACLES,
    build_narrow,
    checkpoint,
    configuration,
    constant,
    layouts,
    narrow,
    needs_extra,
    write,
)

from gdmnet.encoders import ENCODERS, build_encoder, published_weights
from gdmnet.encoders.adapter import RAS
from gdmnet.encoders.build import find_weights
from gdmnet.encoders.catalogue import FAMILIES
from gdmnet.encoders.networks import StagedNetwork, UNetStages, cubes, unet_encoder
from gdmnet.encoders.weights import read_tensors, take
from gdmnet.errors import CheckpointError, PlanError, TrainingError
from gdmnet.files import file_sha256
from gdmnet.objectives.base import Batch, Context
from gdmnet.objectives.build import OBJECTIVES

ONE_A_FAMILY = layouts(
    "ctfm.safetensors",
    "deepbet.pt",
    "nnssl_resencl.pth",
    "vista3d.pt",
    "medicalnet18.pth",
    "model_swinvit.pt",
    "voco_b.pt",
)


def load(file, name, *, stages=None, resample=True, **changes):
    return build_narrow(name, file, configuration(**changes), stages=stages, resample=resample)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A fake of every layout."""
    folder = tmp_path_factory.mktemp("fakes")
    return {layout: write(folder, layout, checkpoint(layout)) for layout in LAYOUTS}


def image(*shape):
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(5))


def ras(x):
    return x.permute(0, 1, 4, 3, 2).flip(2, 3)


@needs_extra
def test_resampling_can_be_switched_off(files):
    coarse = {"spacing": (3.0, 4.7, 4.7), "patch": (16, 16, 16)}
    resampled = load(files["ctfm.safetensors"], "ctfm", **coarse)
    as_it_is = load(files["ctfm.safetensors"], "ctfm", resample=False, **coarse)
    assert resampled.report.zoom == pytest.approx((1.0, 4.7, 4.7))
    assert as_it_is.report.zoom == (1.0, 1.0, 1.0)
    assert as_it_is(image(16, 16, 16))[0].shape[2:] == (16, 16, 16)


@pytest.mark.parametrize("layout", layouts())
def test_every_public_layout_is_read_and_computes_what_its_network_does(files, layout):
    name, prefix, n_tensors = LAYOUTS[layout]
    family = narrow(name)
    spacing = family.spacing or (0.7, 2.0, 1.0)
    encoder = load(files[layout], name, stages=range(len(family.network.strides)), spacing=spacing)
    report = encoder.report
    assert (report.prefix, report.n_tensors) == (prefix, n_tensors)
    assert report.n_others == len(read_tensors(files[layout])) - n_tensors
    assert report.sha256 == file_sha256(files[layout])
    tensors = take(read_tensors(files[layout]), family.network).tensors
    x = image(64, 32, 32)
    seen = encoder.encoder.intensities.scale * x + encoder.encoder.intensities.offset
    seen = seen.clamp(encoder.encoder.intensities.low, encoder.encoder.intensities.high)
    wanted = ORACLES[name](tensors, ras(seen) if family.layout is RAS else seen)
    maps = encoder(x)
    assert len(maps) == len(wanted) == len(report.channels)
    for mine, theirs in zip(maps, wanted, strict=True):
        if family.layout is RAS:
            theirs = theirs.flip(2, 3).permute(0, 1, 4, 3, 2)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@needs_extra
@pytest.mark.parametrize("layout", ["medicalnet18.pth", "medicalnet50.pth"])
def test_shortcuts_pass_gradients_on(files, layout):
    """Where a shortcut is detached, outputs are right and gradients are not."""
    name = LAYOUTS[layout][0]
    encoder = load(files[layout], name, stages=(4,), patch=(32, 32, 32))
    tensors = take(read_tensors(files[layout]), narrow(name).network).tensors
    x = image(32, 32, 32).requires_grad_(True)
    mapped = encoder.encoder.intensities
    (mine,) = torch.autograd.grad(encoder(x)[0].square().sum(), x)
    theirs = ORACLES[name](tensors, mapped.scale * x + mapped.offset)[-1]
    (wanted,) = torch.autograd.grad(theirs.square().sum(), x)
    torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def network_of(layout):
    """The network of a golden layout, and where its tensors lie."""
    if layout == "nnunet_plain.pth":
        strides = cubes(1, 2, 2, 2, 2, 2)
        features = (32, 64, 128, 256, 320, 320)
        return unet_encoder(UNetStages(features, cubes(*(3,) * 6), strides, (2,) * 6)), "encoder."
    name, prefix, _ = LAYOUTS[layout]
    return FAMILIES[name].network, prefix


def differences(listed, network: StagedNetwork, prefix):
    """Names and shapes that a file and a network do not share."""
    tensors = {
        key.rpartition("/")[2]: torch.empty(shape, device="meta")
        for key, (shape, _) in listed.items()
        if shape != "value"
    }
    found = take(tensors, network)
    assert found.prefix == prefix
    with torch.device("meta"):
        whole = network.build(len(network.strides))
    wanted = {k: t for k, t in whole.state_dict().items() if "num_batches_tracked" not in k}
    return {(k, t.shape) for k, t in found.tensors.items()} ^ {
        (k, t.shape) for k, t in wanted.items()
    }


@pytest.mark.parametrize("layout", layouts(*LAYOUTS, "nnunet_plain.pth"))
def test_the_networks_have_the_published_sizes(layout):
    listed = json.loads((KEYS / f"{layout}.json").read_text())
    assert differences(listed, *network_of(layout)) == set()


@needs_extra
@pytest.mark.real
def test_twelve_of_the_thirteen_golden_layouts_load_key_by_key(shared):
    golden = {path.stem: path for path in (shared / "golden/encoder-keys").glob("*.json")}
    own = {"deepbet.pt"}  # read from its wheel, in the project alone
    assert set(golden) | own == {*LAYOUTS, "nnunet_plain.pth", "3dino.pth"}
    for layout in set(golden) - {"3dino.pth"}:
        listed = json.loads(golden[layout].read_text())
        assert differences(listed, *network_of(layout)) == set(), layout


def test_3dino_is_named_as_not_supported(tmp_path):
    with pytest.raises(TrainingError, match=r"encoder 3dino: not supported .a vision transformer"):
        build_encoder("3dino", weights=tmp_path, configuration=configuration())
    file = write(tmp_path, "3dino.pth", checkpoint("3dino.pth"))
    with pytest.raises(CheckpointError, match="not the weights of nnssl_resencl"):
        load(file, "nnssl_resencl")


@needs_extra
def test_resnet34_is_resnet18_with_more_blocks():
    family = FAMILIES["medicalnet_resnet34"]
    with torch.device("meta"):
        whole = family.network.build(5)
    names = [key for key in whole.state_dict() if "num_batches_tracked" not in key]
    assert len(names) == 5 + 16 * 10
    assert [len(whole.get_submodule(f"layer{n}")) for n in (1, 2, 3, 4)] == [3, 4, 6, 3]


@pytest.mark.parametrize("layout", ONE_A_FAMILY)
def test_one_missing_one_more_one_misshapen_or_infinite_tensor_is_refused_by_name(tmp_path, layout):
    name, prefix, _ = LAYOUTS[layout]

    whole = checkpoint(layout)
    level = next((k for k in ("state_dict", "network_weights") if k in whole), None)

    def refused(change, *words):
        tensors = dict(whole[level] if level else whole)
        content = {**whole, level: tensors} if level else tensors
        ends = (".conv2.weight", "conv2.conv.weight", "attn.proj.weight", "double_conv.3.weight")
        keys = [k for k in tensors if k.startswith(prefix) and k.endswith(ends)]
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


@needs_extra
def test_a_file_of_something_else_is_refused(files):
    for layout, name in (("medicalnet18.pth", "ctfm"), ("ctfm.safetensors", "nnssl_resencl")):
        with pytest.raises(CheckpointError, match=f"{layout}: not the weights of {name}"):
            load(files[layout], name)
    with pytest.raises(CheckpointError, match=r"not the weights of vista3d .*of another shape"):
        load(files["ctfm.safetensors"], "vista3d")
    with pytest.raises(CheckpointError, match="not the weights of medicalnet_resnet10"):
        load(files["medicalnet18.pth"], "medicalnet_resnet10")


@pytest.mark.parametrize("layout", ONE_A_FAMILY)
def test_fewer_stages_are_the_first_of_all(files, layout):
    name = LAYOUTS[layout][0]
    x = image(32, 32, 32)
    kwargs = {"spacing": narrow(name).spacing or (1.0, 1.0, 1.0)}
    whole = load(files[layout], name, stages=(0, 1, 2, 3), **kwargs)(x)
    some = load(files[layout], name, stages=(1, 3), **kwargs)
    for mine, stage in zip(some(x), (1, 3), strict=True):
        torch.testing.assert_close(mine, whole[stage])
    fewer = load(files[layout], name, stages=(0,), **kwargs)
    torch.testing.assert_close(fewer(x)[0], whole[0])
    n = [len(encoder.state_dict()) for encoder in (fewer, some)]
    assert n[0] < n[1] < LAYOUTS[layout][2]


@needs_extra
@pytest.mark.parametrize("stages", [(2, 1), (0, 0), (5,), (-1, 0)])
def test_stages_that_are_not_there_are_refused(files, stages):
    with pytest.raises(TrainingError, match="rising numbers of 0 to 4"):
        load(files["ctfm.safetensors"], "ctfm", stages=stages)


@needs_extra
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


@needs_extra
@pytest.mark.parametrize(
    ("layout", "spacing"),
    [
        ("suprem_swinunetr.pth", (1.5, 1.5, 1.5)),
        ("voco_b.pt", (3.0, 1.0, 1.0)),
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
    seen = encoder.encoder.intensities  # outside an encoder's window there is nothing to see
    open_ = (seen.scale * x + seen.offset > seen.low) & (seen.scale * x + seen.offset < seen.high)
    assert float(open_.float().mean()) > 0.9
    assert float((x.grad[open_] != 0).float().mean()) > 0.99
    assert bool(x.grad.isfinite().all())
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())


@needs_extra
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


@needs_extra
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


@needs_extra
def test_building_draws_nothing_from_torchs_generator(files):
    before = torch.get_rng_state()
    load(files["ctfm.safetensors"], "ctfm")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "layout", ["ctfm.safetensors", "vista3d.pt", "model_swinvit.pt", "voco_b.pt"]
)
def test_encoders_of_ct_refuse_targets_without_hounsfield_units(files, layout):
    with pytest.raises(PlanError, match="was trained on CT in HU"):
        load(files[layout], LAYOUTS[layout][0], target=MR)


def test_gdm_descends_with_a_public_encoder(files):
    encoder = load(files["nnssl_resencl.pth"], "nnssl_resencl", patch=(16, 20, 24))
    context = Context(configuration((16, 20, 24)), {"regression_share": 0.0}, 10, encoder=encoder)
    gdm = OBJECTIVES["gdm"](context)
    generator = torch.nn.Conv3d(1, 1, 3, padding=1)
    x = torch.randn(2, 1, 16, 20, 24)
    batch = Batch(x, 0.5 * x + 0.1, torch.ones_like(x))
    found = [gdm.descend(generator, batch, torch.Generator().manual_seed(0)) for _ in range(10)][-1]
    assert found.metrics["norm_drift"] > 0
    assert bool(found.cotangent.isfinite().all())


@needs_extra
def test_names_lead_to_encoders_and_unknown_ones_are_refused(tmp_path, monkeypatch):
    config = configuration()
    assert build_encoder("random", weights=None, configuration=config).report.name == "random"
    with pytest.raises(TrainingError, match="encoder random: takes no weights"):
        build_encoder("random", weights=tmp_path, configuration=config)
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
    there = {name: published_weights(name) for name in ENCODERS if name != "deepbet"}
    assert there == dict.fromkeys(there) | {"ctfm": tmp_path / "ctfm/model.safetensors"}


@pytest.mark.parametrize("layout", layouts("nnssl_resencl.pth", "medicalnet50.pth", "voco_b.pt"))
def test_full_sized_files_are_read_by_name(tmp_path, layout):
    name, _, n_tensors = LAYOUTS[layout]
    file = write(tmp_path, layout, checkpoint(layout, constant))
    encoder = build_encoder(
        name, weights=tmp_path, configuration=configuration(), fingerprint=BODIES
    )
    assert encoder.report.file == str(file)
    assert encoder.report.n_tensors == n_tensors
    first = {"nnssl_resencl.pth": (32, 64), "medicalnet50.pth": (64, 256), "voco_b.pt": (48, 96)}
    assert encoder.report.channels[:2] == first[layout]


def test_monai_is_imported_only_for_its_own_networks():
    code = (
        "import sys, gdmnet.encoders as e; from encoders.fakes import configuration as c;"
        "e.build_encoder('random', weights=None, configuration=c());"
        "print(bool(sys.modules.get('monai')))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert finished.stdout.split() == ["False"], finished.stderr


@pytest.mark.parametrize(
    ("layout", "package"),
    [
        ("vista3d.pt", "monai"),
        ("medicalnet10.pth", "monai"),
        pytest.param("voco_b.pt", "einops", marks=needs_extra),
        pytest.param("ctfm.safetensors", "safetensors", marks=needs_extra),
    ],
)
def test_a_missing_package_is_one_line_with_the_remedy(files, monkeypatch, layout, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TrainingError, match=r"pip install 'gdmnet\[encoders\]'") as problem:
        load(files[layout], LAYOUTS[layout][0])
    assert package in str(problem.value)
    assert "\n" not in str(problem.value)


@needs_extra
def test_heads_of_a_pretraining_may_be_called_otherwise_but_nothing_else_may_be_left(tmp_path):
    content = checkpoint("model_swinvit.pt")
    tensors = content["state_dict"]
    tensors["module.rotation_pre.weight"] = tensors.pop("module.rotation_head.weight")
    assert load(write(tmp_path, "model_swinvit.pt", content), "swinvit_ssl").report.n_others == 8
    tensors["module.layers5.0.weight"] = torch.ones(2)
    with pytest.raises(CheckpointError, match=r"1 unexpected .layers5\.0\.weight."):
        load(write(tmp_path, "model_swinvit.pt", content), "swinvit_ssl")


def test_weights_are_found_where_they_are_said_to_be(tmp_path, monkeypatch):
    find = functools.partial(find_weights, "ctfm")
    with pytest.raises(CheckpointError, match=r"gdmnet_encoders is not set.*huggingface\.co"):
        find()
    monkeypatch.setenv("gdmnet_encoders", str(tmp_path))
    with pytest.raises(CheckpointError, match=f"no weights .{tmp_path}/ctfm"):
        find()
    folder = tmp_path / "ctfm"
    folder.mkdir()
    other = folder / "other.pth"
    other.touch()
    (folder / "config.json").touch()
    assert find() == other  # the only one
    (folder / "more.pth").touch()
    with pytest.raises(CheckpointError):
        find()
    published = folder / "model.safetensors"
    published.touch()
    assert find() == find(folder) == published
    assert find(other) == other
    with pytest.raises(CheckpointError, match="gone"):
        find(tmp_path / "gone.pth")


def test_weights_of_an_installed_package_are_found_last_and_without_importing_it(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "deepbet-1.0.dist-info").mkdir()
    (tmp_path / "deepbet-1.0.dist-info/METADATA").write_text("Name: deepbet\nVersion: 1.0\n")
    with pytest.raises(CheckpointError, match=f"encoder deepbet: no weights .{tmp_path}/data"):
        find_weights("deepbet")
    installed = tmp_path / "data/models/model.pt"
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert find_weights("deepbet") == installed
    monkeypatch.setenv("gdmnet_encoders", str(tmp_path))
    assert find_weights("deepbet") == published_weights("deepbet") == installed
    own = tmp_path / "deepbet/model.pt"
    own.parent.mkdir()
    own.touch()
    assert find_weights("deepbet") == own
    with pytest.raises(CheckpointError, match=r"gone\.pt"):
        find_weights("deepbet", tmp_path / "gone.pt")
