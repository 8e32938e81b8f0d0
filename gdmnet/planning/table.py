"""A plan as a table for people: each decision beside its reason."""

from __future__ import annotations

import textwrap

from gdmnet.geometry import Shape
from gdmnet.plan import Configuration, Plan

_INDENT = 18
_LABELS = {"integer_output": "output"}
_WIDTH = 100


def plan_table(plan: Plan) -> str:
    """The plan in lines of at most 100 characters, for `--dry-run` and the log.

    A reason that two configurations share is shown once.
    """
    title = f"Plan of {plan.dataset}: {', '.join(plan.channel_names)} to {plan.target_name}"
    output = "int16" if plan.integer_output else "float32"
    values = {
        "preset": plan.preset if plan.preset == "cpu" else f"{plan.preset}, {plan.memory_gb:g} GB",
        "integer_output": f"{output} in {plan.file_ending}",
        "configurations": ", ".join(plan.configurations),
    }
    lines = [title, *_rows(values, plan.reasons)]
    shown: set[str] = set()
    for configuration in plan.configurations.values():
        news = {key: text for key, text in configuration.reasons.items() if text not in shown}
        lines += ["", f"{configuration.name} (axes z, y, x)"]
        lines += _rows(_configuration(configuration), news)
        shown.update(configuration.reasons.values())
    return "\n".join(lines)


def _configuration(configuration: Configuration) -> dict[str, str]:
    network = configuration.architecture
    spacing = " x ".join(f"{value:.4g}" for value in configuration.spacing)
    schemes = ", ".join(source.scheme for source in configuration.sources)
    residual = configuration.residual_channel
    correction = configuration.bias_correction
    extra = {} if correction == "none" else {"bias_correction": str(correction)}
    if configuration.region != "body":
        extra["region"] = configuration.region
    return {
        "spacing": f"{spacing} mm, median image {times(configuration.median_shape)}",
        "patch_size": times(configuration.patch_size),
        "batch_size": str(configuration.batch_size),
        "depth": f"{len(network.strides)} stages",
        "features": ", ".join(map(str, network.features)),
        "blocks": ", ".join(map(str, network.blocks)),
        "kernels": ", ".join(map(times, network.kernels)).replace(" x ", "x"),
        "strides": ", ".join(map(times, network.strides)).replace(" x ", "x"),
        "normalisation": f"{schemes} to {configuration.target.scheme}",
        "residual": "none" if residual is None else f"on source {residual}",
        **extra,
    }


def _rows(values: dict[str, str], reasons: dict[str, str]) -> list[str]:
    lines = []
    for key, value in values.items():
        label = _LABELS.get(key, key).replace("_", " ")
        lines += _wrapped(value, f"  {label:<{_INDENT - 2}}")
        if key in reasons:
            lines += _wrapped(reasons[key], " " * (_INDENT + 2))
    return lines


def _wrapped(text: str, first: str) -> list[str]:
    indent = " " * len(first)
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=indent)


def times(shape: Shape) -> str:
    """A shape in words: 48 x 64 x 64."""
    return " x ".join(map(str, shape))
