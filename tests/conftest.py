"""One thread, seeded, the same examples every time; the shared real scans where they are there."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("reproducible", derandomize=True)
settings.load_profile("reproducible")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _one_thread_and_no_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("gdmnet_"):
            monkeypatch.delenv(name)
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (batchgenerators draws from the global state)


@pytest.fixture(scope="module")
def few_drawings() -> Iterator[None]:
    """Of each picture and each kind of chart a module draws the first; others stay empty.

    To draw takes half a second, and a small training a tenth of that.
    """
    from gdmnet.report import figures
    from gdmnet.training import progress

    drawn: set[str] = set()

    def save_charts(charts: list, path: Path, **how: object) -> None:
        if path.name in drawn:
            path.touch()
        else:
            draw_charts(charts, path, **how)
        drawn.add(path.name)

    def as_svg(draw: Callable, *, title: str, text: str) -> str:
        svg = "<svg></svg>" if title in drawn else draw_svg(draw, title=title, text=text)
        drawn.add(title)
        return svg

    draw_charts, draw_svg = progress.save_charts, figures.as_svg
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "save_charts", save_charts)
        patch.setattr(figures, "as_svg", as_svg)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared real scans are not beside the project")
    return SHARED


@pytest.fixture(scope="session")
def models() -> ModuleType:
    """What tests/small_models.py defines; it needs torch."""
    return importlib.import_module("small_models")
