"""model_card.md: what a model is for, what it learnt from, how well it did, where it ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from gdmnet.arrays.normalise import scheme_of
from gdmnet.inference.manifest import Manifest
from gdmnet.metrics.summary import Summary
from gdmnet.models.folder import ModelFolder
from gdmnet.plan import Fingerprint, Intensity, Run

_TITLES = {"mae": "MAE", "psnr": "PSNR [dB]", "ssim": "SSIM", "sharpness": "sharpness"}
_LIMITS = """\
- Research software, **no medical device**. Nobody has tested this model for a clinical purpose;
  whoever uses it must validate it on their own scanners, protocols and patients first.
- It is known to work only on images like those described above. Other regions of the body,
  contrasts, field strengths, reconstructions, implants or pathologies may give images that look
  right and are not.
- Image metrics do not stand in for a dose calculation or a diagnosis.
- A translation shows what is likely, given the source. What the source does not show, such as a
  small lesion, the output cannot be trusted to show or to leave out."""


def describe_model(manifest: Manifest, model: ModelFolder, summaries: Mapping[str, Summary]) -> str:
    """The model card as Markdown: aggregate figures only, no names of cases."""
    plan = model.plan
    sources = " + ".join(plan.channel_names)
    is_ct = model.configuration.target.scheme == "ct"
    unit = "HU" if is_ct else "the training targets' own units"
    sections = (
        (
            f"# {sources} to {plan.target_name}: {manifest.dataset}",
            "**Research software, no medical device.** Licence of the weights:"
            f" {manifest.licence}.",
        ),
        (
            "## What it is for",
            f"It makes a 3D {plan.target_name} image in {unit} out of"
            f" {_channels(plan.channel_names)} of the same patient. The output lies on the"
            " input's grid.",
        ),
        ("## What it was trained on", _data(model)),
        ("## How it was trained", _training(manifest, model.runs)),
        ("## How well it did", _validation(summaries)),
        ("## Where it ends", _LIMITS),
        ("## Use", _use(manifest)),
    )
    return "\n\n".join(f"{title}\n\n{text}" for title, text in sections) + "\n"


def _channels(names: tuple[str, ...]) -> str:
    if len(names) == 1:
        return f"one {names[0]} image (`CASE_0000`)"
    return ", ".join(f"{name} (`CASE_{i:04d}`)" for i, name in enumerate(names))


def _data(model: ModelFolder) -> str:
    configuration = model.configuration
    rows = [
        ("spacing of the network (z, y, x)", f"{_by(configuration.spacing)} mm"),
        ("median size at that spacing", f"{_by(configuration.median_shape)} voxels"),
        ("bias correction of the sources", configuration.bias_correction),
    ]
    if model.fingerprint is not None:
        rows = [*_fingerprint_rows(model.fingerprint), *rows]
    else:
        runs = model.runs.values()
        cases = {case for run in runs for case in (*run.training_cases, *run.validation_cases)}
        rows = [("cases", str(len(cases))), *rows]
    return _table(("fact", "value"), rows)


def _fingerprint_rows(fingerprint: Fingerprint) -> list[tuple[str, str]]:
    spacings = np.array([case.spacing for case in fingerprint.cases])
    sides = np.array([case.shape for case in fingerprint.cases]) * spacings
    rules = sorted({case.mask_rule for case in fingerprint.cases})
    named = zip(
        (*fingerprint.channel_names, fingerprint.target_name),
        (*fingerprint.sources, fingerprint.target),
        strict=True,
    )
    return [
        ("cases", str(len(fingerprint.cases))),
        ("spacing of the images (z, y, x)", f"{_range(spacings)} mm"),
        ("size of the body (z, y, x)", f"{_range(np.rint(sides))} mm"),
        ("body found by", ", ".join(rules)),
        *((f"{name} inside the body", _intensity(name, values)) for name, values in named),
    ]


def _intensity(name: str, values: Intensity) -> str:
    unit = " HU" if scheme_of(name, target=True) == "ct" else ""
    return (
        f"median {values.p50:.4g}{unit}, 98 % between {values.p01:.4g} and {values.p99:.4g}{unit}"
    )


def _training(manifest: Manifest, runs: dict[str, Run]) -> str:
    rows = [
        (
            fold,
            str(len(run.training_cases)),
            str(len(run.validation_cases)),
            f"{run.recipe.epochs} x {run.recipe.iterations}",
            str(run.recipe.seed),
            f"{run.device}, {run.recipe.precision}",
        )
        for fold, run in runs.items()
    ]
    header = ("fold", "training cases", "validation cases", "epochs x steps", "seed", "device")
    packages = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    return (
        f"Objective `{manifest.objective}`, configuration `{manifest.configuration}`;"
        f" {packages or 'versions not recorded'}.\n\n"
        f"{_table(header, rows)}"
    )


def _validation(summaries: Mapping[str, Summary]) -> str:
    if not summaries:
        return "No validation came with this model: nothing is known about its accuracy."
    some = next(iter(summaries.values()))
    metrics = [metric for metric in _TITLES if metric in some.aggregate]
    rows = [
        (fold, *(_statistic(summary.aggregate.get(metric, {})) for metric in metrics))
        for fold, summary in summaries.items()
    ]
    notes = {summary.note for summary in summaries.values() if summary.note}
    lines = [
        "Whole volumes of the validation cases, mean ± standard deviation over the cases (their"
        f" number), inside {some.mask}; convention {some.convention}, units: {some.units},"
        f" data range: {some.data_range}.",
        _table(("fold", *(_TITLES[metric] for metric in metrics)), rows),
        *(f"**Note: {note}.**" for note in sorted(notes)),
    ]
    return "\n\n".join(lines)


def _statistic(values: dict[str, float | None]) -> str:
    mean, std, count = (values.get(key) for key in ("mean", "std", "count"))
    if mean is None or std is None or count is None:
        return "-"
    return f"{mean:.4g} (1)" if count == 1 else f"{mean:.4g} ± {std:.2g} ({count:.0f})"


def _use(manifest: Manifest) -> str:
    return (
        "```bash\ngdm_install_model MODEL.zip\n"
        f"gdm_predict -d {manifest.dataset} -c {manifest.configuration}"
        f" --objective {manifest.objective} -i in/ -o out/\n```\n\n"
        f"Exported by gdmnet {manifest.version}; `manifest.json` holds the SHA-256 of every file."
    )


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _by(values: Iterable[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _range(values: np.ndarray) -> str:
    """Per axis "low to high" of (n, 3) values; one number where they are equal."""
    low, high = values.min(axis=0), values.max(axis=0)
    return " x ".join(
        f"{a:.4g}" if a == b else f"{a:.4g}-{b:.4g}" for a, b in zip(low, high, strict=True)
    )
