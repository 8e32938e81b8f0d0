"""How the scripts judge predictions of held-out cases, and the table that they write.

Errors are those of `gdm_evaluate`, also after the linear match where targets have no HU; contrast
is the ratio of standard deviations inside the mask. How real images look is judged by two encoders
that no training has seen, one without normalisation and one with GroupNorm, made once a run of a
script. Bodies are computed from the targets, unless the dataset has masksTs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean

from gdmnet import codec
from gdmnet.compare.judge import Judge, Subject, Subjects, make_judge
from gdmnet.compare.settings import JudgeSettings
from gdmnet.compare.verdict import give_verdict
from gdmnet.data.case_files import images_by_case
from gdmnet.data.raw import read_description, test_cases, training_cases
from gdmnet.inference.record import read_records
from gdmnet.metrics.conventions import EvaluationSettings, is_ct_like
from gdmnet.metrics.evaluation import EvaluationFolders, evaluate_folders

COLUMNS = {
    "mae": "MAE",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "sharpness": "sharp",
    "contrast": "contrast",
    "gradient_w1": "gW1",
    "histogram_w1": "hW1",
    "spectrum_distance": "psd",
    "frechet_self": "FD plain",
    "frechet_groupnorm": "FD GN",
    "kernel_self": "KD plain",
    "mae_matched": "MAE matched",
    "frechet_matched": "FD matched",
    "seconds_a_step": "s/step",
    "seconds_a_volume": "s/volume",
}
"""Key of row.json -> column of table.md; "matched" columns stand after an intensity match."""
ROW, PREDICTIONS = "row.json", "predictions"
_KINDS, _SEED = ("self", "groupnorm"), 77  # of the judges


class HeldOut:
    """The held-out cases of a raw dataset (imagesTs, targetsTs) and the judges of predictions."""

    def __init__(self, raw: Path, judge_iterations: int) -> None:
        self.raw, self.judge_iterations = raw, judge_iterations
        description = read_description(raw)
        self.cases = test_cases(raw, description)[0]
        self.training = training_cases(raw, description)[0]

    @cached_property
    def judges(self) -> dict[str, Judge]:
        """By kind."""
        reals = Subjects(self.training)
        length = self.judge_iterations
        return {
            kind: make_judge(reals, JudgeSettings(kind=kind, seed=_SEED, iterations=length))
            for kind in _KINDS
        }

    def make_row(self, home: Path, name: str, predict: Callable[[Path], dict[str, float]]) -> None:
        """Predict and judge what is not finished: home/rows/NAME/row.json.

        `predict` fills a folder with all cases and gives what was measured meanwhile.
        """
        folder = home / "rows" / name
        if not (folder / ROW).is_file():
            print(f"== {self.raw.name}, {name}", flush=True)
            measured = predict(folder / PREDICTIONS)
            figures = self.judge(folder / PREDICTIONS, floors=not finished(home))
            codec.save(figures | measured, folder / ROW)

    def judge(self, predictions: Path, *, floors: bool) -> dict[str, float | None]:
        """Means over the cases of all figures; with the judges' floors and ceilings, if wanted."""
        masks = self.raw / "masksTs"
        pairs = EvaluationFolders(
            predictions, self.raw / "targetsTs", masks if masks.is_dir() else None
        )
        plain = evaluate_folders(pairs, EvaluationSettings()).aggregate
        figures = {name: values["mean"] for name, values in plain.items()}
        subjects = Subjects(self.cases, images_by_case(predictions))
        figures["contrast"] = fmean(contrast(subject) for subject in subjects)
        for kind, judge in self.judges.items():
            verdict = give_verdict(judge, subjects, Subjects(self.training) if floors else ())
            figures[f"frechet_{kind}"] = verdict.prediction.frechet.value
            figures[f"kernel_{kind}"] = verdict.prediction.kernel.value
            if floors and verdict.floor is not None:
                figures[f"floor_{kind}"] = verdict.floor.frechet.value
                figures[f"blurred_{kind}"] = verdict.ceiling.frechet.value
        if not is_ct_like(subjects[0].real):  # HU need no match
            how = EvaluationSettings(match_intensity="linear", plausibility=False)
            figures["mae_matched"] = evaluate_folders(pairs, how).aggregate["mae"]["mean"]
            again = give_verdict(self.judges["self"], subjects, match=True)
            figures["frechet_matched"] = again.prediction.frechet.value
        return figures


def contrast(subject: Subject) -> float:
    """The prediction's standard deviation inside the mask over the real image's."""
    assert subject.prediction is not None
    inside = subject.mask != 0
    return float(subject.prediction[inside].std() / subject.real[inside].std())


def seconds_a_volume(predictions: Path) -> float:
    """The mean over the cases of a folder that gdm_predict has filled."""
    (record,) = read_records(predictions).values()
    return fmean(result.seconds or 0.0 for result in record.cases.values())


def finished(home: Path) -> dict[str, dict[str, float]]:
    """The figures of all judged rows by name."""
    return {path.parent.name: codec.read_json(path) for path in home.glob(f"rows/*/{ROW}")}


def write_table(home: Path, order: Sequence[str], title: str, notes: Sequence[str] = ()) -> None:
    """home/table.md from all judged rows."""
    found = finished(home)
    lines = [f"| {' | '.join([title, *COLUMNS.values()])} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in [name for name in order if name in found]:
        cells = [_number(found[name].get(key)) for key in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    one = next(row for row in found.values() if f"floor_{_KINDS[0]}" in row)
    floors = ", ".join(
        f"{kind}: floor {_number(one[f'floor_{kind}'])}, real images blurred by one voxel"
        f" {_number(one[f'blurred_{kind}'])}"
        for kind in _KINDS
    )
    lines += ["", f"Frechet distance, {floors}.", "", *notes]
    codec.write_text(home / "table.md", "\n".join(lines) + "\n")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
