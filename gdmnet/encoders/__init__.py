"""Frozen feature encoders: maps of a target-like image, in which gdm compares distributions."""

from __future__ import annotations

from collections.abc import Callable

from gdmnet.encoders.self_supervised import (
    Frozen,
    PlainEncoder,
    frozen,
    random_encoder,
    self_encoder,
)

# name -> build(architecture, file=Path, seed=int) -> frozen encoder, forward(x[b,1,z,y,x]) -> maps
ENCODERS: dict[str, Callable[..., Frozen]] = {"self": self_encoder, "random": random_encoder}

__all__ = ["ENCODERS", "Frozen", "PlainEncoder", "frozen"]
