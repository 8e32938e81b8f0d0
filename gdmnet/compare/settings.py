"""What all methods of a comparison share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gdmnet.settings import Settings, setting
from gdmnet.training.feature_encoder import EncoderChoice

SETTINGS_JSON = "settings.json"


@dataclass(frozen=True)
class ComparisonSettings(Settings):
    """What all variants of a comparison share; settings.json holds it."""

    SCHEMA: ClassVar[int] = 2
    schema: int
    dataset: str
    configuration: str
    folds: tuple[str, ...] = setting(("0",), "folds to train", flag="-f", metavar="FOLD")
    epochs: int | None = setting(None, "of every variant (default: by the preset)", least=1)
    iterations: int | None = setting(None, "steps an epoch (default: by the preset)", least=1)
    learning_rate: float | None = setting(None, "of all (default: by the preset)", above=0)
    seed: int = setting(0, "of all trainings and of the judge")
    precision: str = setting("auto", "of all trainings", choices=("auto", "fp32", "bf16", "fp16"))
    step_size: float = setting(
        0.5, "distance of windows as a share of the patch", above=0, most=1, metavar="S"
    )
    encoder: EncoderChoice = field(default_factory=EncoderChoice)

    @property
    def n_steps(self) -> int:
        """Of a fold's training."""
        return (self.epochs or 0) * (self.iterations or 0)
