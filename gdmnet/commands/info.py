"""gdm_info: the commands in order of use, the root folders, the datasets and models in them."""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.commands.terminal import add_path, command, new_parser
from gdmnet.errors import CheckpointError, PlanError
from gdmnet.folders import Roots, find_roots
from gdmnet.table import Cell, csv_text, text_table

_IN_ORDER = (
    "demo convert simulate_sparse_view check plan_and_preprocess train predict evaluate report"
    " compare export_model install_model info"
)
COMMANDS = tuple(_IN_ORDER.split())
_PACKAGES = ("SimpleITK", "scipy", "scikit-image", "batchgenerators", "blosc2")


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "")
    instead = parser.add_mutually_exclusive_group()
    text = "what --device accepts here, and versions, instead"
    instead.add_argument("--devices", action="store_true", help=text)
    text = "the feature encoders and what each needs, instead"
    instead.add_argument("--encoders", action="store_true", help=text)
    text = "a training's figures as CSV, an epoch a row, instead"
    add_path(instead, "--log", "log", text, metavar="FOLD")
    parser.add_shared_options(processes=False, images=False)
    return parser


@command(build_parser)
def main(args: argparse.Namespace) -> int:
    """Entry point of gdm_info."""
    if args.devices:
        print(_devices())
    elif args.encoders:
        print(_encoders())
    elif args.log is not None:
        print(_log_as_csv(args.log), end="")
    else:
        print(run(find_roots(args.raw, args.preprocessed, args.results)))
    return 0


def run(roots: Roots) -> str:
    """What gdm_info prints about these folders."""
    sections: dict[str, Sequence[Sequence[Cell]]] = {
        "commands in order of use": [_command(name) for name in COMMANDS],
        "folders": _folders(roots),
        "datasets": _datasets(roots),
        "models": _models(roots.results),
    }
    return _sections(sections)


def _devices() -> str:
    from gdmnet.models.device import describe_devices, versions

    found = versions() | {name: _version(name) for name in _PACKAGES}
    return _sections({"versions": [*found.items()], "devices": [*describe_devices().items()]})


def _encoders() -> str:
    from gdmnet.encoders import ENCODERS, published_weights
    from gdmnet.encoders.catalogue import FAMILIES

    blocks = {}
    for name, card in ENCODERS.items():
        place, found = f"${folders.ENCODERS}/{name}/{card.filename}", published_weights(name)
        facts = [("for", card.modality), ("from", card.source), ("licence", card.licence)]
        if name in FAMILIES and FAMILIES[name].network.extra:
            facts.append(("needs", "pip install 'gdmnet[encoders]'"))
        if found is not None:
            facts.append(("weights", f"{found} (found)"))
        elif name == "nnunet":
            facts.append(("weights", "--encoder nnunet:FOLDER"))
        elif card.filename:
            facts.append(("weights", f"{place} (not there) or --encoder-weights PATH"))
        blocks[name] = facts
    return _sections(blocks)


def _log_as_csv(fold: Path) -> str:
    from gdmnet.training import log

    records = log.read(fold)
    if not records:
        raise CheckpointError(f"{fold}: no {log.LOG_JSONL} here; name the folder of a fold")
    return csv_text(records)


def _sections(sections: Mapping[str, Sequence[Sequence[Cell]]]) -> str:
    return "\n\n".join(
        "\n".join([title, *text_table(rows, n_left=None, indent="  ")])
        for title, rows in sections.items()
    )


def _command(name: str) -> tuple[str, str]:
    """The command and what its module says of itself, which is not imported."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    title, _, text = (ast.get_docstring(ast.parse(source)) or "").partition(": ")
    return title, text.splitlines()[0].rstrip(".")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not found"


def _folders(roots: Roots) -> list[tuple[str, ...]]:
    names = (folders.RAW, folders.PREPROCESSED, folders.RESULTS)
    places = (roots.raw, roots.preprocessed, roots.results)
    return [
        (name, str(place), f"({origin})" if place.is_dir() else f"({origin}; no such folder)")
        for name, place, origin in zip(names, places, roots.origins, strict=True)
    ]


def _datasets(roots: Roots) -> list[tuple[Cell, ...]]:
    """A row each: training cases, prepared configurations, finished models."""
    places = (roots.raw, roots.preprocessed, roots.results)
    names = sorted({name for place in places for name in folders.dataset_names(place)})
    models = [model.dataset for model in folders.finished_models(roots.results)]
    rows: list[tuple[Cell, ...]] = [("dataset", "training cases", "prepared", "models")]
    for name in names:
        n_cases = len(list((roots.raw / name / "targetsTr").glob("[!.]*")))
        cases = (roots.preprocessed / name).glob("*/*/case.json")
        prepared = ", ".join(sorted({path.parent.parent.name for path in cases}))
        rows.append((name, n_cases or None, prepared or None, models.count(name)))
    return rows if names else [("none is here; make one with gdm_convert, or try gdm_demo",)]


def _models(results: Path) -> list[tuple[Cell, ...]]:
    header = "dataset", "objective", "configuration", "folds", "size", "bias correction"
    rows: list[tuple[Cell, ...]] = [(*header, "validation MAE")]
    for model in folders.finished_models(results):
        size = f"{_n_bytes(model.folder) / 2**20:.1f} MiB"
        known = ", ".join(model.folds), size, *_correction_and_mae(model)
        rows.append((*model[:3], *known))
    return rows if len(rows) > 1 else [("none is finished; train one with gdm_train",)]


def _n_bytes(folder: Path) -> int:
    """Of all files; what a training at work takes away meanwhile counts nothing."""
    n_bytes = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                n_bytes += Path(place, name).stat().st_size
    return n_bytes


def _correction_and_mae(model: folders.FinishedModel) -> tuple[Cell, Cell]:
    """Bias correction, and the mean validation MAE of its folds; None where no sound file tells."""
    from gdmnet.plan import Plan

    correction, means, units = None, [], set()
    with contextlib.suppress(PlanError):
        plan = codec.load(Plan, model.folder / folders.PLAN_JSON)
        correction = plan.configuration(model.configuration).bias_correction
    for fold in model.folds:
        path = folders.fold_folder(model.folder, fold) / folders.SUMMARY_JSON
        with contextlib.suppress(PlanError, KeyError, TypeError, ValueError):
            summary = codec.read_json(path)
            means.append(float(summary["aggregate"]["mae"]["mean"]))
            mask = re.split(", | \\(", str(summary["mask"]))[0]
            units.add(f"{str(summary['units']).split(' (')[0]}, mask: {mask}")
    mae = f"{sum(means) / len(means):.4g} {' or '.join(sorted(units))}" if means else None
    return correction, mae
