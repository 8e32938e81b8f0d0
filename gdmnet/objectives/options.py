"""The options of every objective, and their reader; without torch, so that commands check early."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gdmnet import codec
from gdmnet.errors import SettingError
from gdmnet.settings import Settings, make_settings, setting

N_TIMES = 1000  # that the training of bridge and diffusion knows; most steps of their samplers
MOST_STEPS = 10_000  # of a solver
UNITLESS_PERCEPTUAL = 2.0  # of a new gdm whose target has no unit, see documentation/benchmarks.md
MOST_LOCATIONS, MOST_PAST = 4096, 2048  # with both a drift still fits field.MOST_DISTANCES


def _fidelity(default: str) -> Any:  # noqa: ANN401 (of a field's own type)
    return setting(default, "penalty of the error", choices=("l1", "huber", "l1_l2", "l2"))


def _perceptual() -> Any:  # noqa: ANN401
    text = "gdm and regression: weight of the distance in the encoder's features; a new gdm whose"
    text += f" target is no CT takes {UNITLESS_PERCEPTUAL:g}"
    return setting(0.0, text, least=0, metavar="W")


@dataclass(frozen=True)
class GdmOptions(Settings):
    """Options of `gdm`; the defaults are the study's (documentation/benchmarks.md)."""

    drift_ratio: float = setting(
        0.2, "gdm: r, the drift against the fidelity; more is more realistic", least=0, metavar="R"
    )
    fidelity: str = _fidelity("l1")
    perceptual: float = _perceptual()
    pairing: str = setting(
        "pooled", "who is compared with whom", choices=("pooled", "coupled", "paired")
    )
    levels: tuple[str, ...] = setting(
        ("global", "local", "spatial"), "what is compared", choices=("global", "local", "spatial")
    )
    coordination: str = setting(
        "sample", "where the drift gives way to the fidelity", choices=("sample", "voxel")
    )
    temperatures: tuple[float, ...] = setting((0.2,), "tau, in mean distances", above=0)
    locations: int = setting(256, "rows a map and step", least=1, most=MOST_LOCATIONS)
    bank: int = setting(512, "past target rows among a pool's positives", least=0, most=MOST_PAST)
    regression_share: float = setting(0.2, "of all steps, before the drift", least=0, most=1)
    ramp_share: float = setting(0.05, "of all steps, while r grows to its value", least=0, most=1)
    every: int = setting(1, "only each N-th step has a drift, N times as strong", least=1)
    adapt_drift: bool = setting(True, "gdm: never halve the drift ratio on alarm")
    realism_dial: bool = setting(
        False, "gdm: train a regression twin beside, so that gdm_predict --realism T can choose"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("levels", "temperatures"):
            values = getattr(self, name)
            if not 0 < len(values) == len(set(values)):
                raise SettingError(f"{name} must be a list of one or more, each once: {values}")
        if self.realism_dial and (self.drift_ratio == 0 or self.regression_share == 1):
            raise SettingError(
                "a realism dial needs a drift to turn: give a drift_ratio above 0 and a"
                " regression_share below 1"
            )


@dataclass(frozen=True)
class RegressionOptions(Settings):
    """Options of `regression`; without the distance of features it needs no encoder."""

    fidelity: str = _fidelity("l1")
    perceptual: float = _perceptual()


FaithfulOptions = GdmOptions | RegressionOptions
"""Both have a fidelity and the weight of a perceptual distance beside it."""


@dataclass(frozen=True)
class GanOptions(Settings):
    """Options of `gan`; the defaults are pix2pix's; `balance` stands in for `adversarial`."""

    fidelity: str = _fidelity("l1")
    adversarial: float = setting(0.01, "the critic's weight against the fidelity", least=0)
    critic_rate: float = setting(2e-4, "its learning rate, falling in the second half", least=0)
    balance: float = setting(
        0.0, "r: a critic without norms against the fidelity, balanced as gdm's drift", least=0
    )


@dataclass(frozen=True)
class FlowOptions(Settings):
    """Options of `flow`; widths are the target's, and only l2 has the mean velocity as minimum."""

    start: str = setting("noise", "what paths start from", choices=("noise", "source"))
    start_channel: int | None = setting(
        None, "bridge, and flow with start=source: the source channel", least=0, metavar="K"
    )
    noise: float = setting(1.0, "deviation of the noise that paths start from, in widths", above=0)
    sigma: float = setting(0.05, "of the noise on a source that they start from", least=0)
    times: str = setting("uniform", "how t is drawn", choices=("uniform", "logit_normal"))
    fidelity: str = _fidelity("l2")
    solver: str = setting("euler", "of the equation", choices=("euler", "heun", "rk4"))
    steps: int = setting(16, "of the solver", least=1, most=MOST_STEPS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start == "noise" and self.start_channel is not None:
            raise SettingError(
                f"--start-channel {self.start_channel}: flow starts from noise; add --option"
                " start=source, or leave it out"
            )


@dataclass(frozen=True)
class BridgeOptions(Settings):
    """Options of `bridge`; the noise is a multiple of the paper's, in widths of the target."""

    start_channel: int = setting(0, "the source channel that paths start from", least=0)
    noise: float = setting(1.0, "of the paths", above=0)
    ot_ode: bool = setting(False, "train on straight paths without noise: the OT-ODE")
    fidelity: str = _fidelity("l2")
    sampler: str = setting("sde", "ode leaves out each step's noise", choices=("sde", "ode"))
    steps: int = setting(16, "of the sampler", least=1, most=N_TIMES)


@dataclass(frozen=True)
class DiffusionOptions(Settings):
    """Options of `diffusion`; only the fidelity l2 has the mean target as its minimum."""

    noise: float = setting(1.0, "deviation of the noise, in widths of the target", above=0)
    fidelity: str = _fidelity("l2")
    sampler: str = setting("ddim", "how a target is made", choices=("ddim", "ancestral"))
    eta: float = setting(0.0, "of ddim: noise, 1 for that of ancestral", least=0, most=1)
    steps: int = setting(16, "of the sampler", least=1, most=N_TIMES)


OPTIONS: dict[str, type[Settings]] = {
    "gdm": GdmOptions,
    "regression": RegressionOptions,
    "gan": GanOptions,
    "flow": FlowOptions,
    "bridge": BridgeOptions,
    "diffusion": DiffusionOptions,
}
"""Name of each objective -> its options."""


def read_objective_options(objective: str, given: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """The options of an objective (see `OPTIONS`) from plain values, the rest as by default.

    Raises:
        SettingError: an unknown objective or option (the known ones are listed), a value of another
            type, or one out of bounds.
    """
    if objective not in OPTIONS:
        raise SettingError(f"objective {objective!r} is unknown; take one of {', '.join(OPTIONS)}")
    try:
        return make_settings(OPTIONS[objective], given)
    except SettingError as problem:
        raise SettingError(f"objective {objective}: {problem}") from None


def new_options(objective: str, given: Mapping[str, Any], *, has_unit: bool) -> dict[str, Any]:
    """All options of a new training of a target with a unit, HU, or of one without.

    Where the source does not tell the target's scale, features of one length ask for structure
    whatever the scale.
    """
    by_target = {"perceptual": UNITLESS_PERCEPTUAL} if objective == "gdm" and not has_unit else {}
    return all_options(objective, by_target | dict(given))


def all_options(objective: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given and all others, as run.json has them; see its reader's errors."""
    return codec.encode(read_objective_options(objective, given))


def parse_option(text: str) -> tuple[str, Any]:
    """An option from NAME=VALUE: a number, true, false or a list as in JSON, else a name.

    Raises:
        SettingError: another form.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise SettingError(f"{text} is not NAME=VALUE")
    try:
        return name.replace("-", "_"), json.loads(value)
    except json.JSONDecodeError:
        return name.replace("-", "_"), value


def needs_encoder(objective: str, options: Mapping[str, Any]) -> bool:
    """Whether an objective with these options is built with a frozen feature encoder."""
    return objective == "gdm" or bool(options.get("perceptual"))
