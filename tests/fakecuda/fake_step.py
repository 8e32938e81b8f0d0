"""A training step on fake CUDA tensors, in a process that `fake_cuda.cpp` is preloaded into.

Nothing is computed, but devices, types, allocations, kernels and reads by the host are a GPU's.
Prints one JSON object: `reads` (file:line -> numbers that the host waits for), `kernels`, and
`peak` (bytes, in blocks of 512 as torch's allocator hands them out).
"""

from __future__ import annotations

import argparse
import json
import traceback
import weakref
from collections import Counter

import torch
import torch.cuda.amp.common
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gdmnet.encoders.self_supervised import random_encoder
from gdmnet.models import precision
from gdmnet.networks.unet import build_generator
from gdmnet.objectives.base import Batch, Context, Objective
from gdmnet.objectives.gan import build_gan
from gdmnet.objectives.gdm import build_gdm
from gdmnet.objectives.regression import build_regression
from gdmnet.plan import Architecture, Recipe
from gdmnet.training.step import GeneratorOptimizer
from gdmnet.training.twin import RegressionTwin

BLOCK = 512
BUILDERS = {"gdm": build_gdm, "gan": build_gan, "regression": build_regression}
aten = torch.ops.aten
NO_KERNEL = ("detach", "alias", "empty", "new_empty", "view", "prim::")


class FakeGpu(TorchDispatchMode):
    """Counts what a GPU would do, and answers where the host asks for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.kernels = 0
        self.allocated = self.peak = 0
        self.known: set[int] = set()

    def begin(self) -> None:
        """Forget what was counted so far; what is allocated stays."""
        self.reads.clear()
        self.kernels, self.peak = 0, self.allocated

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        on_gpu = any(t.device.type == "cuda" for t in tensors)
        if func is aten._local_scalar_dense.default:
            self._read(on_gpu)
            return _plausible(args[0])
        if func is aten.nonzero.default:
            self._read(on_gpu)
            return torch.empty(args[0].numel(), args[0].ndim, dtype=torch.int64, device=args[0].device)
        if func is aten.index.Tensor and any(i is not None and i.dtype is torch.bool for i in args[1]):
            self._read(on_gpu)
            return args[0].clone()
        out = func(*args, **kwargs)
        results = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        if func in (aten._to_copy.default, aten.copy_.default) and on_gpu:
            source = args[1] if func is aten.copy_.default else args[0]
            self._read(source.device.type == "cuda" and results[0].device.type == "cpu")
        if on_gpu or any(t.device.type == "cuda" for t in results):
            name = func._schema.name.removeprefix("aten::").lstrip("_")
            self.kernels += not (func.is_view or name.startswith(NO_KERNEL))
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
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.known.add(storage._cdata)
        self.allocated += size
        self.peak = max(self.peak, self.allocated)
        weakref.finalize(storage, self._gone, storage._cdata, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.allocated -= size


def _plausible(tensor: torch.Tensor) -> bool | int | float:
    """A number that lets a training in full swing go on: flags are true, counters are large."""
    if tensor.dtype is torch.bool:
        return True
    return 1.0 if tensor.dtype.is_floating_point else 5001
