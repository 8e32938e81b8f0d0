"""model_card.md: what a model is for, what it learnt from, how well it did, where it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from gdmnet.arrays.normalise import scheme_of
from gdmnet.metrics.summary import Summary
from gdmnet.metrics.titles import title_of
from gdmnet.models.folder import ModelFolder
from gdmnet.models.manifest import Manifest
from gdmnet.plan import Fingerprint

_METRICS = ("mae", "psnr", "ssim", "sharpness")
_CARD = """\
# {sources} to {target}: {manifest.dataset}

**Research software, no medical device.** Licence of the weights: {manifest.licence}.

## What it is for

It makes a 3D {target} image in {unit} out of {channels} of the same patient. The output lies on the
input's grid.

## What it was trained on

{data}

## How it was trained

Objective `{manifest.objective}`, configuration `{manifest.configuration}`; {versions}.

{training}

## How well it did

{validation}

## Where it ends

- Research software, **no medical device**. Nobody has tested this model for a clinical purpose;
  whoever uses it must validate it on their own scanners, protocols and patients first.
- It is known to work only on images like those described above. Other regions of the body,
  contrasts, field strengths, reconstructions, implants or pathologies may give images that look
  right and are not.
- Image metrics do not stand in for a dose calculation or a diagnosis.
- A translation shows what is likely, given the source. What the source does not show, such as a
  small lesion, the output cannot be trusted to show or to leave out.

## Use

```bash
{use} -i in/ -o out/
```

Exported by gdmnet {manifest.version}; `manifest.json` holds the SHA-256 of every file.
"""
_ONNX = "gdm_predict -m FOLDER --engine onnxruntime"
_INSTALL = """\
gdm_install_model MODEL.zip
gdm_predict {0.dataset} {0.configuration} --objective {0.objective}"""


def describe_model(manifest: Manifest, model: ModelFolder, summaries: Mapping[str, Summary]) -> str:
    """The model card as Markdown: aggregate figures only, no names of cases."""
    names, target = model.plan.channel_names, model.plan.target_name
    channels = ", ".join(f"{name} (`CASE_{i:04d}`)" for i, name in enumerate(names))
    is_onnx = any(name.endswith(".onnx") for name in manifest.files)
    is_ct = model.configuration.target.scheme == "ct"
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    return _CARD.format(
        manifest=manifest,
        use=_ONNX if is_onnx else _INSTALL.format(manifest),
        sources=" + ".join(names),
        target=target,
        unit="HU" if is_ct else "the training targets' own units",
        channels=f"one {names[0]} image (`CASE_0000`)" if len(names) == 1 else channels,
        versions=versions or "versions not recorded",
        data=_table(("fact", "value"), _data_rows(model)),
        training=_table(
            ("fold", "training cases", "validation cases", "epochs x steps", "seed", "device"),
            _training_rows(model),
        ),
        validation=_validation(summaries),
    )


def _data_rows(model: ModelFolder) -> Iterator[tuple[str, ...]]:
    runs = model.runs.values()
    cases = {case for run in runs for case in (*run.training_cases, *run.validation_cases)}
    if model.fingerprint is None:
        yield "cases", str(len(cases))
    else:
        yield from _fingerprint_rows(model.fingerprint)
    configuration = model.configuration
    yield "spacing of the network (z, y, x)", f"{_range(np.array([configuration.spacing]))} mm"
    shape = np.array([configuration.median_shape])
    yield "median size at that spacing", f"{_range(shape)} voxels"
    yield "bias correction of the sources", configuration.bias_correction


def _fingerprint_rows(fingerprint: Fingerprint) -> Iterator[tuple[str, ...]]:
    spacings = np.array([case.spacing for case in fingerprint.cases])
    sides = np.array([case.shape for case in fingerprint.cases]) * spacings
    yield "cases", str(len(fingerprint.cases))
    yield "spacing of the images (z, y, x)", f"{_range(spacings)} mm"
    yield "size of the body (z, y, x)", f"{_range(np.rint(sides))} mm"
    yield "body found by", ", ".join(sorted({case.mask_rule for case in fingerprint.cases}))
    names = (*fingerprint.channel_names, fingerprint.target_name)
    for name, values in zip(names, (*fingerprint.sources, fingerprint.target), strict=True):
        unit = " HU" if scheme_of(name, target=True) == "ct" else ""
        median, low, high = (f"{value:.4g}" for value in (values.p50, values.p01, values.p99))
        text = f"median {median}{unit}, 98 % between {low} and {high}{unit}"
        yield f"{name} inside the body", text


def _training_rows(model: ModelFolder) -> Iterator[tuple[str, ...]]:
    for fold, run in model.runs.items():
        n_cases = str(len(run.training_cases)), str(len(run.validation_cases))
        length = f"{run.recipe.epochs} x {run.recipe.iterations}"
        yield fold, *n_cases, length, str(run.recipe.seed), f"{run.device}, {run.recipe.precision}"


def _validation(summaries: Mapping[str, Summary]) -> str:
    if not summaries:
        return "No validation came with this model: nothing is known about its accuracy."
    some = next(iter(summaries.values()))
    metrics = [metric for metric in _METRICS if metric in some.aggregate]
    rows = (
        (fold, *(_statistic(summary.aggregate.get(metric, {})) for metric in metrics))
        for fold, summary in summaries.items()
    )
    notes = {summary.note for summary in summaries.values() if summary.note}
    lines = [
        "Whole volumes of the validation cases, mean ± standard deviation over the cases (their"
        f" number), inside {some.mask}; convention {some.convention}, units: {some.units},"
        f" data range: {some.data_range}.",
        _table(("fold", *(title_of(metric, some.unit) for metric in metrics)), rows),
        *(f"**Note: {note}.**" for note in sorted(notes)),
    ]
    return "\n\n".join(lines)


def _statistic(values: Mapping[str, float | None]) -> str:
    mean, std, count = (values.get(key) for key in ("mean", "std", "count"))
    if mean is None or std is None or count is None:
        return "-"
    return f"{mean:.4g} (1)" if count == 1 else f"{mean:.4g} ± {std:.2g} ({count:.0f})"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _range(values: np.ndarray) -> str:
    """Per axis "low to high" of (n, 3) values; one number where they are equal."""
    low, high = values.min(axis=0), values.max(axis=0)
    return " x ".join(
        f"{a:.4g}" if a == b else f"{a:.4g}-{b:.4g}" for a, b in zip(low, high, strict=True)
    )
