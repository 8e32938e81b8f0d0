"""Frozen feature encoders: maps of a target-like image, in which gdm compares distributions."""

from __future__ import annotations

from gdmnet.encoders.adapter import freeze_norms
from gdmnet.encoders.build import ENCODERS, build_encoder, list_encoders
from gdmnet.encoders.frozen import FeatureEncoder, Frozen, Report
from gdmnet.encoders.self_supervised import PlainEncoder

__all__ = [
    "ENCODERS",
    "FeatureEncoder",
    "Frozen",
    "PlainEncoder",
    "Report",
    "build_encoder",
    "freeze_norms",
    "list_encoders",
]
