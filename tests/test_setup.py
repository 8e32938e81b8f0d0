"""What setup.py promises: version, commands, and that every imported package gets installed."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from arguments import COMMANDS

import gdmnet

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTIONS = {"skimage": "scikit-image", "PIL": "pillow", "cc3d": "connected-components-3d"}


def setup_words(name: str) -> list:
    """The literal value of a keyword of setup(...)."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == name:
            return ast.literal_eval(node.value)
    raise AssertionError(name)


def plain(requirement: str) -> str:
    """Name of a requirement, "acvl-utils" for "acvl_utils>=0.2"."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def imported_packages() -> set[str]:
    found = set()
    for path in (ROOT / "gdmnet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
    return {name for name in found if name not in sys.stdlib_module_names and name != "gdmnet"}


def test_the_version_is_written_once():
    shown = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split()[-1] == gdmnet.__version__


def test_whatever_is_imported_is_listed():
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    extras = [
        requirement
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("ENCODERS", "ONNX")
        for requirement in ast.literal_eval(node.value)
    ]
    listed = {plain(requirement) for requirement in [*setup_words("install_requires"), *extras]}
    wanted = {plain(DISTRIBUTIONS.get(name, name)) for name in imported_packages()}
    assert wanted <= listed


def test_only_the_encoders_need_their_extra():
    users = {
        path.name
        for path in (ROOT / "gdmnet").rglob("*.py")
        if re.search(
            r"^\s*(?:from|import) (?:monai|einops|safetensors)\b", path.read_text("utf-8"), re.M
        )
    }
    assert users == {"networks.py", "weights.py"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_entry_point(name):
    module = importlib.import_module(f"gdmnet.commands.{name}")
    assert callable(module.main)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--version"])
    assert stopped.value.code == 0


def test_the_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
