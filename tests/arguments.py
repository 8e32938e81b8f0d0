"""Command-line arguments that many tests share."""

from __future__ import annotations

from pathlib import Path

SHORT = ["--epochs", "2", "--iterations", "2", "--encoder-iterations", "4", "--seed", "1"]


def roots(home: Path) -> list[str]:
    return [f"--{name}={home / name}" for name in ("raw", "preprocessed", "results")]
