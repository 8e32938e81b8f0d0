"""How `method_study.py` judges a row, and what it draws: the table, the front, the pictures.

Judges are two encoders trained on the training targets (one without normalisation, one with
GroupNorm; other widths and seeds than any training's encoder), made once a run of the script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from gdmnet import codec
from gdmnet.arrays.body import body_mask
from gdmnet.charts import Chart, Curve, save_charts
from gdmnet.compare.judge import Judge, Subject, make_judge
from gdmnet.compare.settings import JudgeSettings
from gdmnet.compare.verdict import give_verdict
from gdmnet.data.case import CaseFiles
from gdmnet.data.raw import read_description, test_cases, training_cases
from gdmnet.data.volume import read_channels, read_volume
from gdmnet.metrics.image import match_linear
from gdmnet.metrics.score import score
from gdmnet.metrics.statistics import Values, aggregate_cases
from gdmnet.plan import Normalisation
from gdmnet.report.picture import Panel, draw_panels, save_picture

COLUMNS = (
    ("mae", "MAE"),
    ("psnr", "PSNR"),
    ("ssim", "SSIM"),
    ("ms_ssim", "MS-SSIM"),
    ("sharpness", "sharp"),
    ("gradient_w1", "gW1"),
    ("histogram_w1", "hW1"),
    ("spectrum_distance", "psd"),
    ("frechet_self", "FD plain"),
    ("frechet_groupnorm", "FD GN"),
    ("kernel_self", "KD plain"),
    ("matched_mae", "MAE matched"),
    ("frechet_matched", "FD matched"),
    ("seconds_a_step", "s/step"),
    ("peak_gb", "GB"),
)
FRONTS = {
    "pooled": ("pooled", "pooled_r{:g}"),
    "paired": ("perceptual", "paired_r{:g}"),
    "random encoder": ("encoder_random", "encoder_random_r{:g}"),
    "frozen GroupNorm": ("encoder_groupnorm_frozen", "encoder_groupnorm_frozen_r{:g}"),
    "dial": ("pooled", "dial_{:g}"),
}
"""Name of a curve -> its row at the default, and its rows at other settings."""
JUDGES = (
    ("frechet_self", "plain judge"),
    ("frechet_matched", "plain judge, mean and deviation matched"),
    ("frechet_groupnorm", "GroupNorm judge"),
)
SETTINGS = (0.05, 0.1, 0.25, 0.3, 0.5, 0.6, 0.75, 1.25, 1.5)
N_PICTURES, ZOOM = 3, 0.5  # cases; share of the body's box that is shown


class Bench:
    """The held-out cases of a raw dataset and the judges of their predictions."""

    def __init__(self, raw: Path, home: Path, sources: Sequence[Normalisation]) -> None:
        self.raw = raw
        self.home = home
        self.are_ct = [source.scheme == "ct" for source in sources]
        self.description = read_description(raw)
        self.cases = test_cases(raw, self.description)[0]

    @cached_property
    def others(self) -> Sequence[Subject]:
        """The training cases, read one at a time."""
        return _Lazily(self, training_cases(self.raw, self.description)[0])

    @cached_property
    def judges(self) -> dict[str, Judge]:
        """By kind."""
        return {
            kind: make_judge(self.others, JudgeSettings(kind=kind, seed=77))
            for kind in ("self", "groupnorm")
        }

    def floor(self, kind: str) -> float:
        """Frechet distance of other real subjects to the held-out ones; measured once a study."""
        path = self.home / f"floor_{kind}.json"
        if not path.is_file():
            subjects = [self.subject(files) for files in self.cases]
            same = [_predicted(subject, subject.real) for subject in subjects]
            verdict = give_verdict(self.judges[kind], same, self.others)
            assert verdict.floor is not None
            found = [verdict.floor.frechet.value, verdict.ceiling.frechet.value]
            codec.write_text(path, json.dumps(found))
        return float(json.loads(path.read_text())[0])

    def subject(self, files: CaseFiles) -> Subject:
        """The real image, and the body as mask."""
        assert files.target is not None
        volume = read_volume(files.target)
        if files.mask is not None:
            mask = read_volume(files.mask).array[0] > 0
        else:
            sources = read_channels(files.sources)
            mask = body_mask(sources.array, sources.geometry.spacing, self.are_ct)[0] > 0
        return Subject(files.identifier, volume.array[0], mask, volume.geometry.spacing)

    def prediction(self, folder: Path, files: CaseFiles) -> np.ndarray:
        """Of a row's folder: (z, y, x) in file units."""
        image: np.ndarray = np.load(folder / "predictions" / f"{files.identifier}.npy")
        return image

    def judge(self, folder: Path) -> None:
        """Write a row's row.json: means over the test cases of every figure."""
        subjects, scores = [], {}
        for files in self.cases:
            subject = _predicted(self.subject(files), self.prediction(folder, files))
            real, mask, image = subject.real, subject.mask, subject.prediction
            assert image is not None
            values: Values = score(image, real, mask, subject.spacing)
            gain, offset = match_linear(image, real, mask)
            matched = score(gain * image + offset, real, mask, subject.spacing)
            scores[files.identifier] = values | {"matched_mae": matched["mae"]}
            subjects.append(subject)
        figures = {name: values["mean"] for name, values in aggregate_cases(scores).items()}
        for kind, judge in self.judges.items():
            verdict = give_verdict(judge, subjects)
            figures[f"frechet_{kind}"] = verdict.prediction.frechet.value
            figures[f"kernel_{kind}"] = verdict.prediction.kernel.value
            figures[f"floor_{kind}"] = self.floor(kind)
            figures[f"blurred_{kind}"] = verdict.ceiling.frechet.value
        again = give_verdict(self.judges["self"], subjects, match=True)
        figures["frechet_matched"] = again.prediction.frechet.value
        trained = json.loads((folder / "trained.json").read_text())
        row = {"row": trained["row"], "figures": figures | trained["measured"]}
        codec.save(row, folder / "row.json")


class _Lazily(Sequence):
    """Subjects read from their files one at a time."""

    def __init__(self, bench: Bench, cases: Sequence[CaseFiles]) -> None:
        self.bench, self.cases = bench, cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index):  # noqa: ANN001, ANN204
        return self.bench.subject(self.cases[index])

    def __iter__(self) -> Iterator[Subject]:
        return (self[i] for i in range(len(self)))


def _predicted(subject: Subject, image: np.ndarray) -> Subject:
    return Subject(subject.identifier, subject.real, subject.mask, subject.spacing, image)


def finished(home: Path) -> dict[str, dict]:
    """Figures of all judged rows by name."""
    paths = home.glob("rows/*/row.json")
    return {path.parent.name: json.loads(path.read_text())["figures"] for path in paths}


def write_table(home: Path, order: Sequence[str], title: str) -> None:
    """STUDY/table.md from all finished rows."""
    place = {name: i for i, name in enumerate(order)}
    found = finished(home)
    titles = [title, *(column for _, column in COLUMNS)]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for name in sorted(found, key=lambda n: place.get(n, len(place))):
        cells = [_number(found[name].get(key)) for key, _ in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    one = next(iter(found.values()))
    floors = ", ".join(
        f"{kind}: floor {_number(one.get(f'floor_{kind}'))}, real images blurred by one voxel"
        f" {_number(one.get(f'blurred_{kind}'))}"
        for kind in ("self", "groupnorm")
    )
    lines += ["", f"Frechet distance, {floors}.", "", *_over_seeds(found)]
    codec.write_text(home / "table.md", "\n".join(lines) + "\n")


def _over_seeds(found: dict[str, dict]) -> list[str]:
    """With several seeds: mean and deviation of pooled's ratio to regression."""
    pairs = [
        (found[f"regression{seed}"], found[f"pooled{seed}"])
        for seed in ("", "_seed1", "_seed2")
        if {f"regression{seed}", f"pooled{seed}"} <= set(found)
    ]
    if len(pairs) < 2:
        return []
    ratios = []
    for key, title in COLUMNS:
        values = [mine[key] / base[key] for base, mine in pairs if base.get(key)]
        ratios.append(f"{title} {np.mean(values):.3f} +- {np.std(values, ddof=1):.3f}")
    return [f"pooled over regression, {len(pairs)} seeds: {', '.join(ratios)}"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def draw_front(home: Path) -> None:
    """STUDY/front.png: MAE over Frechet distance, one curve an encoder and pairing."""
    found = finished(home)
    charts = []
    for key, title in JUDGES:
        curves = []
        for name, (default, pattern) in FRONTS.items():
            rows = {default, *(pattern.format(setting) for setting in SETTINGS)} & set(found)
            rows |= {"regression"} & set(found)
            points = sorted((found[row][key], found[row]["matched_mae"]) for row in rows)
            if len(points) > 2:
                curves.append(Curve(name, points))
        axis = f"Frechet distance, {title}"
        charts.append(Chart("MAE (matched) over Frechet distance", curves, x_title=axis))
    if not any(chart.curves for chart in charts):
        return
    save_charts(charts, home / "front.png", heading="", n_columns=len(charts))


def draw_pictures(bench: Bench, home: Path) -> None:
    """STUDY/pictures/CASE.png: the middle of the body, zoomed: regression | gdm | target."""
    rows = {name: home / "rows" / name for name in ("regression", "pooled")}
    if not all((folder / "row.json").is_file() for folder in rows.values()):
        return
    for files in bench.cases[:N_PICTURES]:
        path = home / "pictures" / f"{files.identifier}.png"
        if path.is_file():
            continue
        subject = bench.subject(files)
        box = _middle(subject.mask)
        low, high = np.percentile(subject.real[box], (0.5, 99.5))
        shown = {name: bench.prediction(folder, files) for name, folder in rows.items()}
        images = {"regression": shown["regression"], "gdm": shown["pooled"], "target": subject.real}
        panels = [Panel(name, image[box], low, high) for name, image in images.items()]
        heading = f"{files.identifier}, {low:.0f} to {high:.0f}"
        save_picture(draw_panels(panels, subject.spacing, heading=heading), path)


def _middle(mask: np.ndarray) -> tuple[slice, ...]:
    """The middle of a mask's box, `ZOOM` of it along every axis."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        first, *_, last = np.flatnonzero(mask.any(axis=others))
        half = max(1, int(ZOOM * (last - first) / 2))
        middle = int(first + last) // 2
        box.append(slice(max(0, middle - half), middle + half))
    return tuple(box)
