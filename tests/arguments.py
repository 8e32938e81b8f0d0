"""Commands and command-line arguments that many tests share."""

from __future__ import annotations

import ast
from pathlib import Path

_SETUP = ast.parse((Path(__file__).parents[1] / "setup.py").read_text("utf-8"))
(COMMANDS,) = (
    ast.literal_eval(node.value)
    for node in _SETUP.body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMMANDS"
)
SHORT = ["--epochs", "2", "--iterations", "2", "--encoder-iterations", "4", "--seed", "1"]


def roots(home: Path) -> list[str]:
    return [f"--{name}={home / name}" for name in ("raw", "preprocessed", "results")]
