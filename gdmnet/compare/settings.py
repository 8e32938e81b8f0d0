"""What all variants of a comparison share: asked for once, then kept."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.compare.judge import ITERATIONS
from gdmnet.compare.study import Settings
from gdmnet.data.splits import split_for
from gdmnet.errors import OutputError
from gdmnet.folders import Roots
from gdmnet.models.device import find_device
from gdmnet.plan import Plan
from gdmnet.training.pretrain import default_iterations
from gdmnet.training.settings import DEFAULT_GPU_LENGTH, DEFAULT_LENGTH, EncoderSettings

SETTINGS_JSON = "settings.json"


@dataclass(frozen=True)
class Asked:
    """What a user asks of `Settings`; None is as the comparison began, else the default."""

    folds: tuple[str, ...] | None = None
    epochs: int | None = None
    minutes: float | None = None
    iterations: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    precision: str | None = None
    encoder: EncoderSettings | None = None
    step_size: float | None = None
    judge_iterations: int | None = None


def settle(
    asked: Asked, plan: Plan, configuration: str, roots: Roots, home: Path, device: str = "auto"
) -> Settings:
    """The settings of a comparison: those of its folder, or new ones.

    Args:
        asked: by the user.
        plan: of the dataset.
        configuration: a name of the plan.
        roots: the folders; splits lie in preprocessed.
        home: of the comparison; its settings.json is read, not written.
        device: that trains; a shared encoder's length depends on it.

    Raises:
        OutputError: the comparison there began with other settings.
        GdmnetError: an unknown fold.
    """
    path = home / SETTINGS_JSON
    if not path.is_file():
        return _new(asked, plan, configuration, roots, device)
    kept = codec.load(Settings, path)
    wanted = {"dataset": plan.dataset, "configuration": configuration}
    wanted |= {entry.name: getattr(asked, entry.name) for entry in fields(asked)}
    for name, value in wanted.items():
        before = getattr(kept, name)
        if value is not None and value != before:
            raise OutputError(
                f"{path}: {name.replace('_', ' ')} is {_word(before)} there, not {_word(value)}: a"
                " comparison goes on as it began; give another folder by -o"
            )
    return kept


def _new(asked: Asked, plan: Plan, configuration: str, roots: Roots, device: str) -> Settings:
    epochs, iterations = DEFAULT_LENGTH.get(plan.preset, DEFAULT_GPU_LENGTH)
    epochs, iterations = asked.epochs or epochs, asked.iterations or iterations
    folds = asked.folds or ("0",)
    path = roots.preprocessed / plan.dataset / folders.SPLITS_JSON
    n_cases = min(len(split_for(fold, path).training) for fold in folds)
    encoder = asked.encoder or EncoderSettings()
    if (
        encoder.iterations is None
    ):  # settled now, so that one encoder serves trainings of any length
        length = default_iterations(epochs * iterations, find_device(device), n_cases=n_cases)
        encoder = replace(encoder, iterations=length)
    return Settings(
        schema=Settings.SCHEMA,
        dataset=plan.dataset,
        configuration=configuration,
        folds=folds,
        epochs=None if asked.minutes is not None else epochs,
        minutes=asked.minutes,
        iterations=iterations,
        learning_rate=asked.learning_rate,
        seed=asked.seed or 0,
        precision=asked.precision or "auto",
        encoder=encoder,
        step_size=asked.step_size or 0.5,
        judge_iterations=asked.judge_iterations or ITERATIONS,
    )


def _word(value: object) -> str:
    if isinstance(value, EncoderSettings):
        return f"{value.name} ({value.iterations} steps)"
    if value is None:
        return "none"
    return " ".join(value) if isinstance(value, tuple) else str(value)
