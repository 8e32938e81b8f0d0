"""Small phantoms with a target, a prediction and a source, for the tests of the report."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import numpy as np

from gdmnet.data.case import Volume
from gdmnet.data.volume import write_volume
from gdmnet.geometry import Geometry, Shape
from gdmnet.metrics.conventions import EvaluationSettings
from gdmnet.metrics.evaluation import EvaluationFolders, evaluate_folders
from gdmnet.report.cases import ReportCase
from gdmnet.report.page import ReportPage, render
from gdmnet.report.provenance import Origin
from gdmnet.report.view import case_page

SHAPE: Shape = (12, 20, 26)
GEOMETRY = Geometry(SHAPE, (3.0, 1.5, 1.0))


def target(seed: int) -> np.ndarray:
    """HU: an ellipsoid of soft tissue with a bone in it, air around; different along every axis."""
    z, y, x = np.indices(SHAPE)
    centre = [n / 2 for n in SHAPE]
    inside = sum(((i - c) / (0.9 * c)) ** 2 for i, c in zip((z, y, x), centre, strict=True)) < 1
    image = np.where(inside, 40.0, -1000.0)
    image[3:6, 5:9, 14:20] = 900
    noise = np.random.default_rng(seed).normal(0, 10, SHAPE)
    return (image + noise).astype(np.float32)


def write(path: Path, array: np.ndarray, geometry: Geometry = GEOMETRY) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, Volume(np.asarray(array, np.float32)[None], geometry))


def write_case(home: Path, name: str, seed: int, *, error: float, spread: float | None = None):
    """targets/, out/ (a prediction that is `error` HU too high in the bone) and in/ of one case."""
    truth = target(seed)
    prediction = truth + np.where(truth > 300, error, error / 10)
    write(home / f"targets/{name}.nii.gz", truth)
    write(home / f"out/{name}.nii.gz", prediction)
    write(
        home / f"in/{name}_0000.nii.gz", np.where(truth > -500, (1 + seed) * (300 + truth / 10), 0)
    )
    if spread is not None:
        write(home / f"out/uncertainty/{name}.nii.gz", np.full(SHAPE, spread))


def write_record(home: Path, cases: dict, model: str = "") -> None:
    """out/predictions.json."""
    record = {
        "schema": 1,
        "version": "0.1.0",
        "model": {
            "folder": model,
            "configuration": "3d",
            "checkpoint": "final",
            "checkpoints": {"0": "ab" * 32},
        },
        "versions": {"torch": "2.13"},
        "cases": cases,
    }
    (home / "out/predictions.json").write_text(json.dumps(record))


def unpack(text: str, step: float, shape: Shape) -> np.ndarray:
    """The volume (z, y, x) that the page shows: an own way back from blocks of 4 x 4 x 4."""
    stream = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    low, high = stream.astype(int).reshape(2, -1)
    folded = low + 256 * high
    steps = np.where(folded % 2, -(folded + 1) // 2, folded // 2)
    blocks = [-(-n // 4) for n in shape]
    details = step * steps.reshape(4, 4, 4, *blocks)
    k, i = np.mgrid[:4, :4]
    waves = np.where(k, np.sqrt(0.5), 0.5) * np.cos(np.pi * (2 * i + 1) * k / 8)
    voxels = np.einsum("abczyx,ai,bj,ck->ziyjxk", details, waves, waves, waves)
    filled = voxels.reshape([4 * n for n in blocks])
    return filled[: shape[0], : shape[1], : shape[2]]


def several_methods(home: Path, methods: list[str]) -> str:
    """A page of one case whose methods are 50, 100, ... HU too high in the bone."""
    truth = target(0)
    write(home / "targets/a.nii.gz", truth)
    write(home / "in/a_0000.nii.gz", truth / 10)
    predictions, summaries = {}, {}
    for i, method in enumerate(methods):
        folder = home / f"method_{i}"
        predictions[method] = folder / "a.nii.gz"
        write(predictions[method], truth + (i + 1) * np.where(truth > 300, 50, 5))
        compared = EvaluationFolders(folder, home / "targets", None)
        summaries[method] = evaluate_folders(compared, EvaluationSettings())
    case = ReportCase(
        "a", predictions, home / "targets/a.nii.gz", (home / "in/a_0000.nii.gz",), None
    )
    return render(
        ReportPage(
            title="Methods",
            cases=(case_page(case, ("MR",)),),
            summaries=summaries,
            origin=Origin((("budget", "equal steps"),)),
            made=(("gdmnet", "0"),),
            methods="<p>much</p>",
        )
    )
