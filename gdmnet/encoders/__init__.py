"""Frozen feature encoders: maps of a target-like image, in which gdm compares distributions."""

from __future__ import annotations

from gdmnet.encoders.build import build_encoder, published_weights
from gdmnet.encoders.catalogue import ENCODERS
from gdmnet.encoders.frozen import FrozenEncoder, freeze_norms

__all__ = ["ENCODERS", "FrozenEncoder", "build_encoder", "freeze_norms", "published_weights"]
