"""One small phantom dataset, planned, prepared and trained once for the tests of the commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from arguments import SHORT, roots

from gdmnet.commands import plan_and_preprocess, train
from gdmnet.datasets.phantom import write_phantom_dataset


@pytest.fixture(scope="module", autouse=True)
def _few_drawings(few_drawings):
    """Of all modules here."""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A home with raw and preprocessed roots; do not write into it."""
    home = tmp_path_factory.mktemp("prepared")
    write_phantom_dataset(home / "raw", n_train=3, n_test=2, shape=(12, 24, 24))
    code = plan_and_preprocess.main(["-d", "999", "-np", "1", "--preset", "cpu", *roots(home)])
    assert code == 0
    return home


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory) -> Path:
    """The same with one finished gdm model; do not write into it."""
    home = tmp_path_factory.mktemp("trained") / "home"
    shutil.copytree(prepared, home)
    assert train.main(["999", "3d_fullres", *SHORT, *roots(home)]) == 0
    return home


@pytest.fixture
def home(prepared, tmp_path) -> Path:
    """A prepared home to write into."""
    shutil.copytree(prepared, tmp_path / "home")
    return tmp_path / "home"
