"""gdm_info: what is here: versions, devices, folders and trained models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from gdmnet import codec, folders
from gdmnet.commands.terminal import add_root_options, guarded, new_parser
from gdmnet.encoders import ENCODERS, published_weights
from gdmnet.encoders.catalogue import FAMILIES
from gdmnet.errors import PlanError
from gdmnet.folders import Roots, find_roots
from gdmnet.metrics.summary import Summary
from gdmnet.models.device import describe_devices, versions
from gdmnet.plan import Plan

_PACKAGES = ("SimpleITK", "scipy", "scikit-image", "batchgenerators", "blosc2")


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = new_parser(__doc__ or "")
    parser.add_argument(
        "--encoders", action="store_true", help="list the feature encoders and what each needs"
    )
    add_root_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of gdm_info."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        roots = find_roots(args.raw, args.preprocessed, args.results)
        print(encoders() if args.encoders else run(roots))
        return 0

    return guarded(body)


def run(roots: Roots) -> str:
    """What gdm_info prints about this installation and these folders."""
    sections: dict[str, Sequence[tuple[str, ...]]] = {
        "versions": list(_versions().items()),
        "devices": list(describe_devices().items()),
        "folders": _folders(roots),
        "models": _models(roots.results),
    }
    return "\n\n".join("\n".join([title, *_aligned(rows)]) for title, rows in sections.items())


def encoders() -> str:
    """What `gdm_info --encoders` prints: every feature encoder and what it needs."""
    blocks = []
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
        blocks.append("\n".join([name, *_aligned(facts)]))
    return "\n\n".join(blocks)


def _versions() -> dict[str, str]:
    return versions() | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not found"


def _folders(roots: Roots) -> list[tuple[str, ...]]:
    names = (folders.RAW, folders.PREPROCESSED, folders.RESULTS)
    places = (roots.raw, roots.preprocessed, roots.results)
    return [
        (name, str(place), f"({origin})", _content(place))
        for name, place, origin in zip(names, places, roots.origins, strict=True)
    ]


def _content(root: Path) -> str:
    if not root.is_dir():
        return "no such folder"
    n_datasets = len(folders.dataset_names(root))
    return "1 dataset" if n_datasets == 1 else f"{n_datasets} datasets"


def _models(results: Path) -> list[tuple[str, ...]]:
    rows = [
        (
            dataset,
            objective,
            configuration,
            ", ".join(folders.finished_folds(model)),
            _bias_correction(model, configuration),
            f"{_n_bytes(model) / 2**20:.1f} MiB",
            _validation_mae(model),
        )
        for dataset, objective, configuration, model in folders.finished_models(results)
    ]
    header = (
        "dataset",
        "objective",
        "configuration",
        "folds",
        "bias correction",
        "size",
        "validation MAE",
    )
    return [header, *rows] if rows else [("none is finished; train one with gdm_train",)]


def _bias_correction(model: Path, configuration: str) -> str:
    try:
        return (
            codec.load(Plan, model / folders.PLAN_JSON).configuration(configuration).bias_correction
        )
    except PlanError:  # missing, damaged or of another version: nothing to tell
        return "-"


def _n_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _validation_mae(model: Path) -> str:
    """The mean over the finished folds that have a validation, with its unit."""
    means, units = [], set()
    for fold in folders.finished_folds(model):
        try:
            summary = codec.load(Summary, folders.fold_folder(model, fold) / folders.SUMMARY_JSON)
        except PlanError:  # missing, damaged or of another version: nothing to tell
            continue
        mean = summary.aggregate.get("mae", {}).get("mean")
        if mean is not None:
            means.append(mean)
            units.add(summary.units.split(" (")[0])
    if not means:
        return "-"
    return f"{sum(means) / len(means):.4g} {' or '.join(sorted(units))}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
