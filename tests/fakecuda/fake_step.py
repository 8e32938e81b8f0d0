"""Training steps on fake CUDA tensors, in a process that `fake_cuda.cpp` is preloaded into.

Nothing is computed, but devices, types, allocations, kernels and reads by the host are a GPU's.
Takes a JSON list of jobs (fields of `Job`) and prints one JSON object a job: `reads` (file:line ->
how often the host waits there), `kernels`, and `peak` (bytes, in blocks of 512 as torch's
allocator hands them out), of a step in the midst of a training.
"""

from __future__ import annotations

import json
import sys
import traceback
import weakref
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.cuda.amp.common
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gdmnet import codec
from gdmnet.drifting.numbers import NumbersModule
from gdmnet.encoders.self_supervised import random_encoder
from gdmnet.geometry import Shape, Spacing
from gdmnet.models import precision
from gdmnet.networks.unet import Generator
from gdmnet.objectives.base import Batch, Context
from gdmnet.objectives.build import OBJECTIVES
from gdmnet.plan import Architecture, Configuration, Normalisation, Recipe
from gdmnet.training.step import GeneratorOptimizer

DEVICE = torch.device("cuda", 0)
ALLOCATED_AT_ONCE = 512  # bytes
N_STEPS = 2  # the first one makes the optimiser's state
aten = torch.ops.aten
NO_KERNEL = ("detach", "alias", "empty", "new_empty", "view", "unsafe_view", "prim::")


@dataclass(frozen=True)
class Job:
    """One training: what is planned, and how it is trained."""

    objective: str
    patch: Shape
    batch: int
    features: tuple[int, ...]
    kernels: tuple[Shape, ...]
    strides: tuple[Shape, ...]
    blocks: tuple[int, ...]
    spacing: Spacing = (1.0, 1.0, 1.0)
    n_sources: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    precision: str = "bf16"

    def configuration(self) -> Configuration:
        """As it is planned."""
        scheme = Normalisation("zscore", 0.0, 1.0, None, None, 0.0)
        return Configuration(
            name="3d_fullres",
            spacing=self.spacing,
            median_shape=self.patch,
            patch_size=self.patch,
            batch_size=self.batch,
            architecture=Architecture(self.features, self.kernels, self.strides, self.blocks),
            sources=(scheme,) * self.n_sources,
            target=scheme,
            residual_channel=None,
            feature_map_voxels=0,
            reasons={},
        )


class FakeGpu(TorchDispatchMode):
    """Counts what a GPU would do, and answers where the host asks for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()
        self.allocated = self.peak = 0
        self.known: set[int] = set()

    def begin(self) -> None:
        """Forget what was counted so far; what is allocated stays."""
        self.reads.clear()
        self.kernels.clear()
        self.peak = self.allocated

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        on_gpu = any(t.device.type == "cuda" for t in tensors)
        if func is aten._local_scalar_dense.default:
            self._read(on_gpu)
            return _plausible(args[0])
        if func is aten.nonzero.default:
            self._read(on_gpu)
            size = (args[0].numel(), args[0].ndim)
            return torch.empty(size, dtype=torch.int64, device=args[0].device)
        if func is aten.index.Tensor and any(
            i is not None and i.dtype is torch.bool for i in args[1]
        ):
            self._read(on_gpu)
            return args[0].clone()
        if func is aten._unique2.default:
            self._read(on_gpu)
            return args[0], args[0], args[0]
        out = func(*args, **kwargs)
        results = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        if func in (aten._to_copy.default, aten.copy_.default):
            self._read(_waits(func, args, kwargs, results[0]))
        if on_gpu or any(t.device.type == "cuda" for t in results):
            name = func._schema.name.removeprefix("aten::").lstrip("_")
            if not (func.is_view or name.startswith(NO_KERNEL)):
                self.kernels[name] += 1
        for tensor in results:
            self._follow(tensor)
        return out

    def _read(self, waits: bool) -> None:
        if waits:
            frames = [f for f in traceback.extract_stack() if "/gdmnet/" in f.filename]
            place = frames[-1] if frames else None
            name = f"{place.filename.split('/gdmnet/')[-1]}:{place.lineno}" if place else "torch"
            self.reads[name] += 1

    def _follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.device.type != "cuda" or storage._cdata in self.known:
            return
        size = -(-storage.nbytes() // ALLOCATED_AT_ONCE) * ALLOCATED_AT_ONCE
        self.known.add(storage._cdata)
        self.allocated += size
        self.peak = max(self.peak, self.allocated)
        weakref.finalize(storage, self._gone, storage._cdata, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.allocated -= size


def _waits(func, args, kwargs, result: torch.Tensor) -> bool:
    """Whether the host waits for a copy: always for one to it, and for one that is not told not to.

    To the GPU only non-blocking copies of pinned memory let the host go on.
    """
    is_copy = func is aten.copy_.default
    source = args[1] if is_copy else args[0]
    if {source.device.type, result.device.type} != {"cpu", "cuda"}:
        return False
    lets_go = kwargs.get("non_blocking", False) or (is_copy and len(args) > 2 and args[2])
    return result.device.type == "cpu" or not lets_go


def _plausible(tensor: torch.Tensor) -> bool | int | float:
    """A number that lets a training in full swing go on: flags are true, counters are large."""
    if tensor.dtype is torch.bool:
        return True
    return 1.0 if tensor.dtype.is_floating_point else 5001


def pretend() -> None:
    """Make torch believe in its CUDA device, and leave fake tensors where they were made."""
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    _foreach_utils._foreach_supported_types.append(FakeTensor)
    sys.modules["torch.optim.optimizer"]._foreach_supported_types.append(FakeTensor)
    torch.Tensor.__deepcopy__ = nn.Parameter.__deepcopy__ = _copied
    FakeTensor.tolist = _listed
    torch.Tensor.pin_memory = lambda self, *_: self
    nn.Module.to = lambda self, *_, **__: self
    nn.utils.skip_init = lambda kind, *args, **options: kind(*args, **options)


def _listed(tensor: torch.Tensor) -> Any:
    """The numbers of a tensor, for one read."""
    tensor = tensor.cpu()
    if tensor.ndim == 0:
        return _plausible(tensor)
    return [_listed(part) for part in tensor]


def _copied(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    """What copy.deepcopy does with a fake tensor: it must not copy the fake mode along."""
    copy = torch.empty_like(tensor.detach())
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(copy, requires_grad=tensor.requires_grad) if is_parameter else copy


def _in_full_swing(module: nn.Module) -> None:
    """Numbers on the host as in the midst of a training."""
    for part in module.modules():
        if isinstance(part, NumbersModule):
            for name, kind in part._numbers.items():
                value = getattr(part, name)
                setattr(part, name, 5001 if kind is int else value or 1.0)


def measured(job: Job) -> dict[str, Any]:
    """Reads, kernels and peak of a job's step."""
    with FakeGpu() as gpu:
        configuration = job.configuration()
        architecture = configuration.architecture
        with DEVICE:
            encoder = random_encoder(architecture, seed=0)
            context = Context(configuration, job.options, 10_000, encoder=encoder)
            objective = OBJECTIVES[job.objective](context)
            for module in objective.modules().values():
                _in_full_swing(module)
            extra, time = objective.inputs.extra_channels, objective.inputs.time
            generator = Generator(
                architecture, n_sources=job.n_sources, extra_channels=extra, time=time
            )
            recipe = Recipe(epochs=40, iterations=250, precision=job.precision)
            optimizers = {objective: GeneratorOptimizer(generator, recipe, DEVICE)}
            twin = objective.twin()
            if twin is not None:
                optimizers = {twin[0]: optimizers[objective].copy(), **optimizers}
        for _ in range(N_STEPS):
            gpu.begin()
            sides = [
                torch.empty(job.batch, n, *job.patch, device=DEVICE) for n in (job.n_sources, 1, 1)
            ]
            batch = Batch(*sides)
            del sides
            for one, optimizer in optimizers.items():
                with precision.autocast(job.precision, DEVICE):
                    descent = one.descend(optimizer.trained, batch, torch.Generator())
                optimizer.step(descent, 5001)
                del descent
        return {
            "reads": dict(gpu.reads),
            "kernels": gpu.kernels.total(),
            "by_name": dict(gpu.kernels.most_common(40)),
            "peak": gpu.peak,
            "parameters": sum(p.numel() for p in generator.parameters()),
        }


if __name__ == "__main__":
    pretend()
    with FakeTensorMode():
        for entry in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
            print(json.dumps(measured(codec.decode(Job, entry))), flush=True)
