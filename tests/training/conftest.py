"""Small prepared cases as numpy arrays, which slice as the stored ones do, and a tiny generator."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from gdmnet.data.case import CaseRecord
from gdmnet.data.store import StoredCase
from gdmnet.geometry import Geometry
from gdmnet.plan import Architecture, Configuration, Normalisation

TARGET_BACKGROUND = -1.0
SPACING = (3.0, 1.5, 1.0)  # mm (z, y, x): every axis another, so that an order can be wrong


@pytest.fixture(scope="module", autouse=True)
def _few_drawings(few_drawings):
    """Of all modules here, but for that about the drawings."""


def _normalisation(scheme, background=0.0):
    return Normalisation(scheme, 0.0, 1.0, None, None, background)


@pytest.fixture
def make_configuration():
    def make(patch=(8, 8, 8), *, schemes=("ct",), backgrounds=(-1.0,), **changes):
        values = {
            "name": "3d_fullres",
            "spacing": SPACING,
            "median_shape": (12, 14, 16),
            "patch_size": patch,
            "batch_size": 2,
            "architecture": Architecture((4,), ((3, 3, 3),), ((1, 1, 1),), (1,)),
            "sources": tuple(map(_normalisation, schemes, backgrounds)),
            "target": _normalisation("percentiles", TARGET_BACKGROUND),
            "residual_channel": None,
            "feature_map_voxels": 1,
            "reasons": {},
        }
        return Configuration(**(values | changes))

    return make


@pytest.fixture
def make_case():
    """A case from its arrays: source (c, z, y, x), target (1, z, y, x), body (z, y, x)."""

    def make(source, target, body=None, name="case"):
        shape = target.shape[1:]
        body = np.ones(shape, np.uint8) if body is None else body
        record = CaseRecord(
            identifier=name,
            geometry=Geometry(shape, SPACING),
            box=tuple((0, n) for n in shape),
            spacing=SPACING,
            shape=shape,
            mask_rule="given",
            target=_normalisation("percentiles", TARGET_BACKGROUND),
        )
        centres = np.argwhere(body).astype(np.int32)
        return StoredCase(record, source, target, body, centres)

    return make


@pytest.fixture
def make_noise_case(make_case):
    """A case of smooth noise whose target is 2 source + 1; the source's background maps to -1."""

    def make(shape=(12, 14, 16), *, seed=0, name="case"):
        rng = np.random.default_rng(seed)
        source = rng.normal(size=(1, *shape)).astype(np.float32)
        body = (rng.random(shape) < 0.7).astype(np.uint8)
        return make_case(source, 2 * source + 1, body, name)

    return make


@pytest.fixture
def make_generator():
    def make():
        return nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.GroupNorm(1, 4), nn.ReLU(), nn.Conv3d(4, 1, 1)
        )

    return make
