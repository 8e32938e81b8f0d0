"""Random checkpoints in the layouts of tests/golden/encoder-keys, and slow obvious forwards."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch._dynamo  # torch 2.6 imports it at the first use, which fails within a test
from torch.nn import functional

from gdmnet.encoders import build_encoder
from gdmnet.encoders.catalogue import FAMILIES, RESENC_L
from gdmnet.encoders.networks import linknet, medicalnet, segresnet, swin, unet_encoder
from gdmnet.plan import (
    Architecture,
    CaseFingerprint,
    Configuration,
    Fingerprint,
    Intensity,
    Normalisation,
)

needs_extra = pytest.mark.skipif(
    any(find_spec(package) is None for package in ("monai", "einops", "safetensors")),
    reason="gdmnet[encoders] is not installed",
)
KEYS = Path(__file__).resolve().parents[1] / "golden" / "encoder-keys"
NARROWER = 8  # fakes have an eighth of the channels: the names are what matters
VALUES = {"str": "text", "int": 3, "list": [1, 2], "NoneType": None, "dict": {}, "tuple": (0, 1)}
CT = Normalisation("ct", -200.0, 400.0, -1024.0, 3071.0, -1024.0)
MR = Normalisation("percentiles", 10.0, 500.0, None, None, 0.0)
CUBE = (3, 3, 3)
# How many of the file's tensors are the encoder's, and where they lie.
LAYOUTS = {
    "ctfm.safetensors": ("ctfm", "", 135),
    "ctfm_segresnet.safetensors": ("ctfm", "encoder.", 135),
    "ctfm_lightning.ckpt": ("ctfm", "model.backbone.", 135),
    "nnssl_resencl.pth": ("nnssl_resencl", "encoder.", 224),
    "vista3d.pt": ("vista3d", "image_encoder.encoder.", 83),
    "deepbet.pt": ("deepbet", "", 20),
    "medicalnet10.pth": ("medicalnet_resnet10", "module.", 60),
    "medicalnet18.pth": ("medicalnet_resnet18", "module.", 85),
    "medicalnet50.pth": ("medicalnet_resnet50", "module.", 265),
    "model_swinvit.pt": ("swinvit_ssl", "module.", 126),
    "suprem_swinunetr.pth": ("suprem_swin", "module.swinViT.", 126),
    "voco_b.pt": ("voco_b", "swinViT.", 134),
}


def layouts(*names):
    """Test parameters; all but nnU-Net's networks and deepbet's are MONAI's."""
    return [
        name if name.startswith(("nn", "deepbet")) else pytest.param(name, marks=needs_extra)
        for name in names or LAYOUTS
    ]


def checkpoint(layout, tensor_of=None):
    """A nested dict of narrow random tensors in a layout (or of what `tensor_of` makes)."""
    tensor_of = tensor_of or _tensor
    listed = json.loads((KEYS / f"{layout}.json").read_text())
    generator = torch.Generator().manual_seed(len(layout))
    content: dict = {}
    for path, (shape, kind) in listed.items():
        *levels, key = path.split("/")
        place = content
        for level in levels:
            place = place.setdefault(level, {})
        place[key] = VALUES[kind] if shape == "value" else tensor_of(key, shape, generator)
    return content


def constant(key, shape, generator):
    """As large as published; in a .pth file it takes hardly any room."""
    return torch.full((), 0.5).expand(shape)


def _tensor(key, shape, generator):
    if key.endswith("relative_position_index"):
        return torch.randint(13**3, shape, generator=generator)
    if not shape:
        return torch.tensor(7)
    if key.endswith("relative_position_bias_table"):
        return torch.randn(shape, generator=generator)
    sides = [max(1, side // NARROWER) if side > 7 else side for side in shape[:2]] + shape[2:]
    noise = torch.randn(sides, generator=generator)
    if key.endswith("running_var"):
        return 0.5 + noise.square()
    if len(sides) == 1:
        return 0.2 * noise + (1 if "weight" in key else 0)
    return noise / (noise[0].numel() ** 0.5)


def write(folder, layout, content):
    file = folder / layout
    if layout.endswith(".safetensors"):
        write_safetensors(file, content)
    else:
        torch.save(content, file, _use_new_zipfile_serialization="medicalnet" not in layout)
    return file


def write_safetensors(file, tensors):
    header, blobs, place = {"__metadata__": {"format": "pt"}}, [], 0
    for key, tensor in tensors.items():
        kind = {torch.float32: "F32", torch.int64: "I64", torch.bfloat16: "BF16"}[tensor.dtype]
        blob = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        span = [place, place + len(blob)]
        header[key] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": span}
        blobs.append(blob)
        place = span[1]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def narrow(name):
    """A family with an eighth of the channels."""
    families = {"ctfm": segresnet(4, norm="batch"), "vista3d": segresnet(6, norm="instance")}
    families["deepbet"] = linknet(2, 2, 4, 8, 16)
    families |= {"swinvit_ssl": swin(6), "suprem_swin": swin(6), "voco_b": swin(6, residual=True)}
    if name == "nnssl_resencl":
        network = unet_encoder(replace(RESENC_L, features=(4, 8, 16, 32, 40, 40)))
    elif name in families:
        network = families[name]
    else:
        depth = int(name.removeprefix("medicalnet_resnet"))
        network = medicalnet(depth)
        channels = tuple(c // NARROWER for c in network.channels)
        network = replace(network, build=narrow_medicalnet(network.build), channels=channels)
    return replace(FAMILIES[name], network=network)


def build_narrow(name, file, config, **options):
    """`build_encoder` for a file of few channels."""
    with mock.patch.dict(FAMILIES, {name: narrow(name)}):
        return build_encoder(
            name, weights=file, configuration=config, fingerprint=BODIES, **options
        )


def narrow_medicalnet(build):
    def narrowed(n):
        with mock.patch("monai.networks.nets.resnet.get_inplanes", return_value=[8, 16, 32, 64]):
            return build(n)

    return narrowed


def configuration(patch=(32, 32, 32), spacing=(1.0, 1.0, 1.0), target=CT):
    stride = tuple(2 if n % 4 == 0 else 1 for n in patch)
    architecture = Architecture((8, 8, 8), (CUBE,) * 3, ((1, 1, 1), stride, stride), (1,) * 3)
    return Configuration(
        "3d_fullres", spacing, patch, patch, 2, architecture, (target,), target, None, 0, {}
    )


def fingerprint(*cases, name="CT"):
    """Of (mean, std, p00_5, p01, p99, p99_5, outside, body share) a case."""
    made = []
    for number, (mean, std, p00_5, p01, p99, p99_5, outside, share) in enumerate(cases):
        target = Intensity(mean, std, p00_5, p99_5, p00_5, p01, mean, p99, p99_5, outside)
        made.append(
            CaseFingerprint(str(number), (9, 9, 9), (1.0,) * 3, share, "given", (target,), target)
        )
    return Fingerprint(1, "D", ("MR",), name, tuple(made), (made[0].target,), made[0].target)


BODIES = fingerprint((0.0, 300.0, -950.0, -900.0, 900.0, 1200.0, -1000.0, 0.4))


def conv(tensors, key, x, stride=1, dilation=1):
    weight = tensors[key + ".weight"]
    padding = [dilation * (side // 2) for side in weight.shape[2:]]
    return functional.conv3d(
        x, weight, tensors.get(key + ".bias"), stride, padding, dilation=dilation
    )


def norm(tensors, key, x):
    weight, bias = tensors.get(key + ".weight"), tensors.get(key + ".bias")
    if key + ".running_mean" in tensors:
        mean, variance = tensors[key + ".running_mean"], tensors[key + ".running_var"]
        return functional.batch_norm(x, mean, variance, weight, bias)
    return functional.instance_norm(x, weight=weight, bias=bias)


def segresnet_maps(tensors, x):
    maps = []
    x = conv(tensors, "conv_init", x)
    for stage, n in enumerate((1, 2, 2, 4, 4)):
        for block in range(n):
            key, y = f"layers.{stage}.blocks.{block}", x
            for half in ("1", "2"):
                y = conv(tensors, f"{key}.conv{half}", norm(tensors, f"{key}.norm{half}", y).relu())
            x = x + y
        maps.append(x)
        if stage < 4:
            x = conv(tensors, f"layers.{stage}.downsample", x, stride=2)
    return maps


def residual_maps(tensors, x, strides=(1, 2, 2, 2, 2, 2), blocks=(1, 3, 4, 6, 6, 6)):
    def conv_norm(key, x, stride=1):
        return norm(tensors, key + ".norm", conv(tensors, key + ".conv", x, stride))

    maps = []
    x = functional.leaky_relu(conv_norm("stem.convs.0", x), 0.01)
    for stage, stride in enumerate(strides):
        for block in range(blocks[stage]):
            step, key, short = stride if block == 0 else 1, f"stages.{stage}.blocks.{block}", x
            if step != 1:
                short = functional.avg_pool3d(short, step, step)
            for place in (0, 1):
                if f"{key}.skip.{place}.conv.weight" in tensors:
                    short = conv_norm(f"{key}.skip.{place}", short)
            y = functional.leaky_relu(conv_norm(key + ".conv1", x, step), 0.01)
            x = functional.leaky_relu(conv_norm(key + ".conv2", y) + short, 0.01)
        maps.append(x)
    return maps


def plain_maps(tensors, x, strides):
    maps = []
    for stage, stride in enumerate(strides):
        for number in range(2):
            key = f"stages.{stage}.0.convs.{number}"
            x = conv(tensors, key + ".conv", x, stride if number == 0 else 1)
            x = functional.leaky_relu(norm(tensors, key + ".norm", x), 0.01)
        maps.append(x)
    return maps


def medicalnet_maps(tensors, x):
    x = norm(tensors, "bn1", conv(tensors, "conv1", x, stride=2)).relu()
    maps = [x]
    x = functional.max_pool3d(x, 3, 2, 1)
    for layer, (stride, dilation) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4)), start=1):
        block = 0
        while f"layer{layer}.{block}.conv1.weight" in tensors:
            key, step = f"layer{layer}.{block}", stride if block == 0 else 1
            if key + ".conv3.weight" in tensors:
                y = norm(tensors, key + ".bn1", conv(tensors, key + ".conv1", x)).relu()
                y = conv(tensors, key + ".conv2", y, step, dilation)
                y = norm(tensors, key + ".bn2", y).relu()
                y = norm(tensors, key + ".bn3", conv(tensors, key + ".conv3", y))
            else:
                y = conv(tensors, key + ".conv1", x, step, dilation)
                y = norm(tensors, key + ".bn1", y).relu()
                y = norm(tensors, key + ".bn2", conv(tensors, key + ".conv2", y, 1, dilation))
            if key + ".downsample.0.weight" in tensors:
                short = conv(tensors, key + ".downsample.0", x, step)
                short = norm(tensors, key + ".downsample.1", short)
            else:
                short = functional.avg_pool3d(x, 1, step)
                short = functional.pad(short, (0, 0) * 3 + (0, y.shape[1] - x.shape[1]))
            x = (y + short).relu()
            block += 1
        maps.append(x)
    return maps


def linknet_maps(tensors, x):
    x = norm(tensors, "init.1", conv(tensors, "init.0", x, stride=2)).relu()
    maps = [x]
    x = functional.max_pool3d(x, 3, 2, 1)
    for stage in range(4):
        for block in ("block1", "block2"):
            key, step = f"down{stage}.{block}", 2 if stage and block == "block1" else 1
            y = norm(tensors, "", conv(tensors, f"{key}.double_conv.0", x, step)).relu()
            y = norm(tensors, "", conv(tensors, f"{key}.double_conv.3", y))
            short = conv(tensors, f"{key}.downsample.0", x, step) if step == 2 else None
            x = (y + (x if short is None else norm(tensors, "", short))).relu()
        maps.append(x)
    return maps


def swin_maps(tensors, x):
    from monai.networks.nets.swin_unetr import PatchMerging, SwinTransformer

    residual, cube = "layers1c.0.layer.conv1.conv.weight" in tensors, (2, 2, 2)
    heads = {"depths": (2, 2, 2, 2), "num_heads": (3, 6, 12, 24), "use_v2": residual}
    network = SwinTransformer(1, 6, (7, 7, 7), cube, downsample=PatchMerging, **heads)
    network.load_state_dict(tensors)
    return network.eval()(x)


ORACLES = {
    "ctfm": segresnet_maps,
    "vista3d": segresnet_maps,
    "deepbet": linknet_maps,
    "nnssl_resencl": residual_maps,
    "medicalnet_resnet10": medicalnet_maps,
    "medicalnet_resnet18": medicalnet_maps,
    "medicalnet_resnet50": medicalnet_maps,
    "swinvit_ssl": swin_maps,
    "suprem_swin": swin_maps,
    "voco_b": swin_maps,
}
