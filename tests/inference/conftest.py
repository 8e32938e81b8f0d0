from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def models() -> SimpleNamespace:
    """What tests/inference/models.py defines."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("models.py"))))
