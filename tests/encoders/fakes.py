"""Random checkpoints in the layouts of tests/golden/encoder-keys, and slow obvious forwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional

from gdmnet.encoders.catalogue import FAMILIES, RESENC_L, SEGRESNET_BLOCKS
from gdmnet.encoders.medicalnet import MedicalNet
from gdmnet.encoders.segresnet import SegResEncoder
from gdmnet.encoders.unet_encoders import ResidualUNetEncoder
from gdmnet.plan import (
    Architecture,
    CaseFingerprint,
    Configuration,
    Fingerprint,
    Intensity,
    Normalisation,
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
    "medicalnet10.pth": ("medicalnet_resnet10", "module.", 60),
    "medicalnet18.pth": ("medicalnet_resnet18", "module.", 85),
    "medicalnet50.pth": ("medicalnet_resnet50", "module.", 265),
}


def shapes(layout):
    """Names with their levels joined by "/", and shapes (None: not a tensor)."""
    listed = json.loads((KEYS / f"{layout}.json").read_text())
    return {key: None if shape == "value" else shape for key, (shape, _) in listed.items()}


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
    if not shape:
        return torch.tensor(7)
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
    networks = {
        "ctfm": lambda n: SegResEncoder(4, SEGRESNET_BLOCKS[:n], norm="batch"),
        "vista3d": lambda n: SegResEncoder(6, SEGRESNET_BLOCKS[:n], norm="instance"),
        "nnssl_resencl": lambda n: ResidualUNetEncoder(
            replace(RESENC_L, features=(4, 8, 16, 32, 40, 40)).first(n)
        ),
        "medicalnet_resnet10": lambda n: medicalnet((1, 1, 1, 1)[: n - 1]),
        "medicalnet_resnet18": lambda n: medicalnet((2, 2, 2, 2)[: n - 1], projects=False),
        "medicalnet_resnet50": lambda n: medicalnet((3, 4, 6, 3)[: n - 1], bottleneck=True),
    }
    return replace(FAMILIES[name], network=networks[name])


def medicalnet(blocks, *, bottleneck=False, projects=True):
    return MedicalNet(blocks, bottleneck=bottleneck, projects=projects, width=8)


def configuration(patch=(32, 32, 32), spacing=(1.0, 1.0, 1.0), target=CT):
    architecture = Architecture((8, 8, 8), (CUBE,) * 3, ((1, 1, 1), (2, 2, 2), (2, 2, 2)), (1,) * 3)
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
    weight, bias = tensors[key + ".weight"], tensors[key + ".bias"]
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


ORACLES = {
    "ctfm": segresnet_maps,
    "vista3d": segresnet_maps,
    "nnssl_resencl": residual_maps,
    "medicalnet_resnet10": medicalnet_maps,
    "medicalnet_resnet18": medicalnet_maps,
    "medicalnet_resnet50": medicalnet_maps,
}
