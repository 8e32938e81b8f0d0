"""Model folders as gdm_train leaves them, with generators whose output is known by arithmetic.

CT to CT with the source added to a correction of a constant: the prediction is the source, clipped
to the window, plus `shift` HU.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from gdmnet import codec, folders
from gdmnet.arrays.body import body_mask
from gdmnet.arrays.crop import bounding_box
from gdmnet.data.case import Case, CaseRecord, Volume
from gdmnet.data.volume import write_volume
from gdmnet.geometry import Geometry, nearest_lps
from gdmnet.models import checkpoint
from gdmnet.models.expected_error import ExpectedError
from gdmnet.objectives.base import Context, Inputs
from gdmnet.objectives.build import SAMPLED, generator_of
from gdmnet.plan import (
    Architecture,
    CaseFingerprint,
    Configuration,
    Fingerprint,
    Normalisation,
    Plan,
    Recipe,
    Run,
)
from gdmnet.planning.fingerprint import measure_intensity, summarise

CT = Normalisation("ct", 0.0, 500.0, -1024.0, 3000.0, -1024.0)
SPACING = (2.0, 1.0, 1.0)


def make_configuration(name="3d_fullres", *, n_sources=1, spacing=SPACING) -> Configuration:
    return Configuration(
        name=name,
        spacing=spacing,
        median_shape=(12, 24, 24),
        patch_size=(8, 16, 16),
        batch_size=2,
        architecture=Architecture((4, 8), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)), (1, 1)),
        sources=(CT,) * n_sources,
        target=CT,
        residual_channel=0,
        feature_map_voxels=1,
        reasons={},
    )


def make_plan(configuration: Configuration, *, integer=True) -> Plan:
    names = tuple(f"CT {i}" for i in range(len(configuration.sources)))
    return Plan(
        schema=Plan.SCHEMA,
        version="0.1.0",
        dataset="Dataset501_Test",
        channel_names=names,
        target_name="CT",
        file_ending=".nii.gz",
        integer_output=integer,
        preset="cpu",
        memory_gb=8.0,
        reasons={},
        configurations={configuration.name: configuration},
    )


def make_run(configuration: Configuration, fold="0", objective="regression", **recipe) -> Run:
    return Run(
        schema=Run.SCHEMA,
        version="0.1.0",
        dataset="Dataset501_Test",
        configuration=configuration.name,
        fold=fold,
        training_cases=("a", "b"),
        validation_cases=("c",),
        objective=objective,
        options={},
        recipe=Recipe(epochs=1, iterations=1, **recipe),
        encoder=None,
        encoder_sha256=None,
        pretrained_sha256=None,
        device="cpu",
        n_threads=1,
        n_workers=0,
        detail_gain=1.0,  # its sources are its targets
    )


def make_model(
    results: Path,
    shifts=None,
    *,
    dataset="Dataset501_Test",
    objective="regression",
    configuration=None,
    integer=True,
    finished=True,
    precision="fp32",
) -> Path:
    """A model folder under `results`; `shifts` is fold -> HU added to the source."""
    configuration = configuration or make_configuration()
    model = folders.model_folder(results, dataset, objective, configuration.name)
    codec.save(make_plan(configuration, integer=integer), model / folders.PLAN_JSON)
    for fold, shift in (shifts or {"0": 0.0}).items():
        place = folders.fold_folder(model, fold)
        run = make_run(configuration, fold, objective, precision=precision)
        codec.save(run, place / folders.RUN_JSON)
        names = (folders.FINAL, folders.BEST) if finished else (folders.LATEST,)
        for name in names:
            extra = 50.0 if name == folders.BEST else 0.0
            weights = shifted_weights(configuration, shift + extra, objective)
            checkpoint.save(place / name, {"epoch": 1, "ema": weights})
    return model


def shifted_weights(
    configuration: Configuration, shift: float, objective: str = "regression"
) -> dict[str, torch.Tensor]:
    inputs = Inputs()
    if objective in SAMPLED:
        inputs = SAMPLED[objective](Context(configuration)).inputs
    torch.manual_seed(0)
    generator = generator_of(configuration, inputs)
    torch.nn.init.constant_(generator.head.bias, shift / configuration.target.scale)
    return generator.state_dict()


def make_case(shape) -> Case:
    """A prepared case that is body everywhere, its source 0."""
    box = tuple((0, size) for size in shape)
    geometry = Geometry(shape, SPACING)
    record = CaseRecord("even", geometry, box, SPACING, shape, "whole volume", None)
    return Case(record, np.zeros((1, *shape), np.float32), None, np.ones(shape, np.uint8))


def make_ct(shape=(11, 21, 25), *, seed=0) -> np.ndarray:
    """A textured ellipsoid of soft tissue in air, int HU as float32 (z, y, x)."""
    rng = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    body = z**2 + y**2 + x**2 < 0.8
    tissue = 40 + 200 * np.sin(3 * x) * np.cos(4 * y) + rng.normal(0, 10, shape)
    return np.where(body, np.maximum(np.rint(tissue), -300), -1000).astype(np.float32)


def core(shape=(11, 21, 25)) -> np.ndarray:
    """Voxels of `make_ct` that belong to any sensible body mask."""
    axes = [np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 < 0.4


def make_geometry(shape, *, spacing=SPACING, degrees=0.0, origin=(-10.5, 20.25, 3.0)) -> Geometry:
    """A grid turned about z by `degrees`."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    direction = (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0)
    axes, flips = nearest_lps(direction)
    return Geometry(shape, spacing, origin, direction, axes, flips)


def write_ct(path: Path, *, seed=0, degrees=0.0, shape=(11, 21, 25)) -> np.ndarray:
    """Write `make_ct` and return it."""
    array = make_ct(shape, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, Volume(array[None], make_geometry(shape, degrees=degrees)), integer=True)
    return array


def shift_qform(path: Path, mm: float) -> None:
    """Let the qform of a .nii.gz place it so far from its sform, along x."""
    header = bytearray(gzip.decompress(path.read_bytes()))
    (place,) = struct.unpack_from("<f", header, 268)
    struct.pack_into("<f", header, 268, place + mm)
    path.write_bytes(gzip.compress(bytes(header)))


def make_expected(**changes) -> ExpectedError:
    """Errors of 10 to 30 HU below 200 HU, and ten times as large above."""
    values = {
        "folds": ("0", "1", "2"),
        "n_cases": 5,
        "band_edges": (200.0,),
        "difficulty_edges": (0.0, 5.0),
        "half_widths": (10.0, 20.0, 30.0, 100.0, 200.0, 300.0),
        "means": (5.0, 10.0, 15.0, 50.0, 100.0, 150.0),
        "mae": (20.0, 40.0),
        "coverage": (0.8, 0.95),
        "mae_ratio": (0.7, 1.3),
        "rank_correlation": 0.8,
    }
    return ExpectedError(**(values | changes))


def make_fingerprint(*, n_sources=1, n_cases=3) -> Fingerprint:
    """Of a training set of `make_ct` with the seeds 0, 1, ..."""
    names = [f"CT {i}" for i in range(n_sources)]
    cases = []
    for seed in range(n_cases):
        ct = make_ct(seed=seed)
        body, rule = body_mask(ct[None], SPACING, [True])
        (z0, z1), (y0, y1), (x0, x1) = bounding_box(body)
        intensity = measure_intensity(ct, body != 0, SPACING)
        cases.append(
            CaseFingerprint(
                identifier=f"case_{seed}",
                shape=(z1 - z0, y1 - y0, x1 - x0),
                spacing=SPACING,
                body_fraction=float((body != 0).mean()),
                mask_rule=rule,
                sources=(intensity,) * n_sources,
                target=intensity,
            )
        )
    return summarise("Dataset501_Test", cases, names, "CT")


def trained_fold(model: Path, cases=(), *, on_training=False) -> SimpleNamespace:
    """As much of a `FoldTraining` of fold 0 as its validation takes."""
    return SimpleNamespace(
        folder=folders.fold_folder(model, "0"),
        run=SimpleNamespace(fold="0"),
        split=SimpleNamespace(validates_on_training=on_training),
        cases=lambda: ([], cases),
        process_device=lambda: torch.device("cpu"),
    )
