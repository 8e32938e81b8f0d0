"""What makes a judge of images; without torch, so that commands start quickly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gdmnet.settings import Settings, setting

JUDGE_JSON = "judge.json"
JUDGE_KINDS = ("self", "random", "groupnorm")
JUDGE_ITERATIONS = 400  # about a minute of one core


@dataclass(frozen=True)
class JudgeSettings(Settings):
    """A judge that is trained on real images, or another training's encoder."""

    kind: str = setting(
        "self",
        "an encoder that is trained without normalisation layers (self), has random weights, or is"
        " trained with group norm",
        choices=JUDGE_KINDS,
        flag="--judge",
    )
    encoder: Path | None = setting(
        None,
        "another training's encoder.pt as the judge",
        flag="--judge-encoder",
        metavar="FILE",
    )
    iterations: int = setting(
        JUDGE_ITERATIONS, "steps of the judge's training", least=1, flag="--judge-iterations"
    )
    seed: int = setting(0, "of the judge")
