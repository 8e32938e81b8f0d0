"""Options that choose a trained model, the same in every command that uses one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gdmnet.folders import Roots
from gdmnet.models.select import find_model


@dataclass(frozen=True)
class Choice:
    """Which model: its folder, or what narrows the choice under the results; None is any."""

    model: Path | None = None
    dataset: str | None = None
    configuration: str | None = None
    objective: str | None = None
    folds: Sequence[str] | None = None


def add_model_options(parser: argparse.ArgumentParser, *, folds: str) -> argparse._ArgumentGroup:
    """-d, -c, --objective, -f and -m; `folds` says what is done with several folds."""
    group = parser.add_argument_group("model (default: the only finished one)")
    group.add_argument("-d", dest="dataset", metavar="ID", help="501 or Dataset501_Name")
    group.add_argument("-c", dest="configuration", metavar="NAME", help="3d_fullres, ...")
    group.add_argument("--objective", metavar="NAME", help="gdm, regression, ...")
    group.add_argument(
        "-f",
        dest="folds",
        nargs="+",
        metavar="FOLD",
        help=f"folds to {folds}, or all (default: every finished numeric fold)",
    )
    group.add_argument("-m", dest="model", type=Path, metavar="MODEL", help="a model's folder")
    return group


def model_choice(args: argparse.Namespace) -> Choice:
    """What the options say."""
    return Choice(args.model, args.dataset, args.configuration, args.objective, args.folds)


def chosen_folder(choice: Choice, roots: Roots) -> Path:
    """The folder of the model that is meant.

    Raises:
        CheckpointError: none under the results, or several.
    """
    if choice.model is not None:
        return choice.model
    return find_model(
        roots.results,
        dataset=choice.dataset,
        configuration=choice.configuration,
        objective=choice.objective,
        folds=choice.folds,
    ).folder
