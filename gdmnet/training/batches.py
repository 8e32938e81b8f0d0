"""Batches of patches: each a pure function of (seed, epoch, step, rank)."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gdmnet.arrays.normalise import background_value
from gdmnet.data.store import StoredCase
from gdmnet.errors import DatasetError, GdmnetError, TrainingError
from gdmnet.geometry import Shape
from gdmnet.models import seeds
from gdmnet.objectives.base import Batch
from gdmnet.plan import Configuration
from gdmnet.training import augment as augmentation

_SAMPLE, _INTENSITY, _ORDER = 0, 1, 2  # separate streams of random numbers
_SHARED_MEMORY = "/dev/shm"  # of Linux, where workers are
MR_LIKE = ("zscore", "percentiles")  # the other schemes keep numbers that mean something


class Batches:
    """Patches around random voxels inside the body, the cases taken in turn.

    Cases are prepared ones with targets, all of one configuration. Without `augment` their patches
    are as they are stored (validation); `n_workers` processes prepare batches ahead, 0 is this one.

    Raises:
        TrainingError: no cases.
        DatasetError: a case without a target, named.
    """

    def __init__(
        self,
        cases: Sequence[StoredCase],
        configuration: Configuration,
        *,
        seed: int,
        augment: bool,
        n_workers: int = 0,
    ) -> None:
        if not cases:
            raise TrainingError("there are no cases to take patches from; check the splits")
        for case in cases:
            if case.record.target is None:
                raise DatasetError(
                    f"case {case.record.identifier} has no target; add it to targetsTr and"
                    " preprocess again"
                )
        self.cases = cases
        self.configuration = configuration
        self.seed = seed
        self.augment = augment
        self.n_workers = n_workers
        self._source_fill = [background_value(scheme) for scheme in configuration.sources]
        self._transforms = augmentation.intensity_transforms()
        residual = configuration.residual_channel  # the output adds to it: it stays as it is
        mr_like = (source.scheme in MR_LIKE for source in configuration.sources)
        self._changing = [i for i, may in enumerate(mr_like) if may and i != residual]

    def batch(self, epoch: int, step: int, rank: int = 0) -> Batch:
        """The batch of one step, CPU tensors in network units.

        Patches lie inside the volume where it is large enough; elsewhere they are padded with
        each channel's background, and the mask is 0 there.
        """
        size = self.configuration.batch_size
        samples = np.stack([self._sample(epoch, step * size + i, rank) for i in range(size)])
        source, target, mask = samples[:, :-2], samples[:, -2:-1], samples[:, -1:]
        if self.augment:
            rng = seeds.numpy_rng(self.seed, epoch, step, rank, _INTENSITY)
            with seeds.seeded_globals(rng):
                augmentation.augment_intensities(source, self._changing, self._transforms)
        return Batch(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (source, target, mask)))

    def _sample(self, epoch: int, number: int, rank: int) -> NDArray:
        """One patch: source channels, target and mask, float32 (c + 2, z, y, x)."""
        rng = seeds.numpy_rng(self.seed, epoch, number, rank, _SAMPLE)
        case = self._case(epoch, number, rank)
        patch = self.configuration.patch_size
        centre = case.centres[int(rng.integers(len(case.centres)))]
        start = patch_start(centre, patch, case.record.shape)
        if not self.augment:
            return self.read(case, start, patch)
        coordinates = augmentation.draw_coordinates(patch, self.configuration.spacing, rng)
        if coordinates is None:
            return augmentation.mirror(self.read(case, start, patch), rng)
        middle = np.add(start, (np.array(patch) - 1) / 2)
        coordinates += middle.reshape(3, 1, 1, 1)
        first, size = augmentation.region_of(coordinates)
        coordinates -= np.reshape(first, (3, 1, 1, 1))
        sampled = augmentation.sample(self.read(case, first, size), coordinates)
        sampled[-1] = sampled[-1] >= 0.5
        return augmentation.mirror(sampled, rng)

    def _case(self, epoch: int, number: int, rank: int) -> StoredCase:
        """All cases once in a random order, then all in another: rare cases are never missed."""
        rounds, position = divmod(number, len(self.cases))
        rng = seeds.numpy_rng(self.seed, epoch, rounds, rank, _ORDER)
        return self.cases[int(rng.permutation(len(self.cases))[position])]

    def read(self, case: StoredCase, start: Shape, size: Shape) -> NDArray:
        """A region from a first voxel, also outside the volume: float32 (c + 2, *size).

        Source channels, target and mask as they are stored, and the background of each outside.
        """
        assert case.record.target is not None  # refused when this was built
        source = read_patch(case.source, start, size, self._source_fill)
        target = read_patch(case.target, start, size, [background_value(case.record.target)])
        mask = read_patch(case.body, start, size, 0.0) > 0
        return np.concatenate([source, target, mask[None].astype(np.float32)])


def patch_start(centre: Sequence[int], patch: Shape, shape: Shape) -> Shape:
    """First voxel of a patch around a voxel, shifted so that the patch stays inside the volume.

    All are (z, y, x). The start is negative on axes where the volume is smaller than the patch:
    there it lies in the middle of the patch.
    """
    z, y, x = (
        -((size - n) // 2) if n <= size else min(max(int(middle) - size // 2, 0), n - size)
        for middle, size, n in zip(centre, patch, shape, strict=True)
    )
    return z, y, x


def read_patch(array: Any, start: Shape, size: Shape, fill: float | Sequence[float]) -> NDArray:  # noqa: ANN401
    """A patch (z, y, x) of an array, a new float32 array (c, *size) or (*size).

    Args:
        array: (c, z, y, x) or (z, y, x), numpy or blosc2 (only the patch is decompressed).
        start: first voxel, possibly outside the volume.
        size: of the patch.
        fill: value outside the volume, one a channel.
    """
    *channels, depth, height, width = array.shape
    patch = np.empty((*channels, *size), dtype=np.float32)
    patch[...] = np.reshape(np.asarray(fill, dtype=np.float32), (*channels, 1, 1, 1))
    inside = [
        slice(max(first, 0), min(first + length, n))
        for first, length, n in zip(start, size, (depth, height, width), strict=True)
    ]
    if all(part.start < part.stop for part in inside):
        there = [
            slice(part.start - first, part.stop - first)
            for part, first in zip(inside, start, strict=True)
        ]
        every = [slice(None)] * len(channels)
        patch[tuple(every + there)] = array[tuple(every + inside)]
    return patch


def prefetched(
    batches: Batches,
    places: Sequence[tuple[int, int]],
    n_workers: int = 0,
    rank: int = 0,
    *,
    pinned: bool = False,
) -> Generator[Batch, None, None]:
    """The batches of some steps, epoch and step of each, in order; workers only make them faster.

    They live until the last step; 0 prepares batches in this process, and so does every system but
    Linux (memory-mapped cases reach a worker only by a fork). What they make is put, if `pinned`,
    into memory that a CUDA device copies without the host.

    Raises:
        TrainingError: a worker process died.
        GdmnetError: what `batches` raise.
    """
    if n_workers == 0 or sys.platform != "linux":
        for epoch, step in places:
            yield batches.batch(epoch, step, rank)
        return
    loader: DataLoader = DataLoader(
        _Steps(batches, places, rank, n_workers),
        batch_size=None,
        num_workers=n_workers,
        collate_fn=lambda arrays: arrays,
        pin_memory=pinned,
        worker_init_fn=partial(_end_with, os.getpid()),
        generator=torch.Generator(),  # else it would draw from the global one
        multiprocessing_context="fork",
    )
    try:
        for arrays in loader:
            if isinstance(arrays, GdmnetError):
                raise arrays
            yield Batch(*(torch.as_tensor(array) for array in arrays))
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise TrainingError(
            f"a process that makes patches died ({error}); most often memory ran out: use fewer"
            " of them with -np"
        ) from None


class _Steps(Dataset):
    """Batches: tensors go through shared memory, arrays, where it is full, by a pipe."""

    def __init__(
        self, batches: Batches, places: Sequence[tuple[int, int]], rank: int, n_workers: int
    ) -> None:
        self.batches, self.places, self.rank, self.n_workers = batches, places, rank, n_workers

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[NDArray | Tensor, ...] | GdmnetError:
        try:
            batch = self.batches.batch(*self.places[index], self.rank)
        except GdmnetError as problem:  # torch would make its traceback a part of its text
            return problem
        parts = (batch.source, batch.target, batch.mask)
        n_bytes = sum(part.numel() * part.element_size() for part in parts)
        # A full /dev/shm kills a process; each worker may have three batches on their way.
        if shutil.disk_usage(_SHARED_MEMORY).free > 2 * 3 * self.n_workers * n_bytes:
            return parts
        return tuple(part.numpy() for part in parts)


def _end_with(parent: int, _: int) -> None:
    """End this worker within a second of its parent: it would wait for ever for it to take one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets it too, stops its workers

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
