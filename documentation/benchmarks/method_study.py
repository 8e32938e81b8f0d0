"""Methods beside each other at equal error: every row fine-tuned from one regression.

    python documentation/benchmarks/method_study.py 501 -o STUDY --raw RAW [--rows NAME ...]

The dataset is planned and prepared into STUDY, one regression a seed is trained on all its training
cases, and every row is then trained for equal steps from that checkpoint, with the same seed and
patches. Judged on imagesTs against targetsTs alone, on whole volumes (see `judging.py`). What is
finished is kept, so the script can be stopped and started again, or started twice with different
rows; STUDY/table.md and front.png are made anew after every row.

A method's front goes from regression to its own row and beyond: rows `METHOD@T` need no training,
theirs are weights between both, as `--realism T` takes them; where the fidelity has a perceptual
distance, between that regression and the row. `stretch_S` and `spectral_A` are
what trivial means make of the regression, and `METHOD@T+finish_A` what the spectral finish makes of
a row; both are fitted on four training cases. The second half of table.md compares methods within
equal budgets of MAE, each interpolated along its own front; never compare rows of equal strength.

`whole`, gdm as gdm_train trains it (`whole_0.2` with its r, too), `whole_METHOD`, and `flow`,
`bridge` and `diffusion`, whose networks are others, start from nothing and take as many steps as
regression and a row together; `METHOD_steps_N` samples them in N steps, and their front is a
straight line.

On a slow machine `--small` halves the generator's and the encoder's features, takes two thirds of
the patch and overlaps windows by a quarter: other figures, the same comparison. Every dataset,
and every change of these settings, needs a STUDY folder of its own; one of others is refused.
`--pictures ROW ...` draws the first three cases; `gdm_report` shows STUDY/rows/*/predictions
beside each other.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import judging
import numpy as np
from numpy.typing import NDArray

from gdmnet import codec, folders
from gdmnet.arrays.crop import Box, bounding_box
from gdmnet.charts import Chart, Curve, save_charts
from gdmnet.commands import plan_and_preprocess, predict
from gdmnet.commands.terminal import guarded, new_parser
from gdmnet.compare.judge import Subjects
from gdmnet.data.case_files import images_by_case
from gdmnet.data.store import open_case
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.errors import OutputError
from gdmnet.files import whole_file
from gdmnet.folders import Roots
from gdmnet.geometry import Spacing
from gdmnet.inference.finish import FinishCase, apply_finish, fit_finish
from gdmnet.inference.translator import Translator, load_model
from gdmnet.inference.windows import Estimate
from gdmnet.metrics.conventions import CT_LIKE_MINIMUM
from gdmnet.models import checkpoint
from gdmnet.models.card import PredictionSettings
from gdmnet.models.select import ModelChoice
from gdmnet.plan import Plan
from gdmnet.planning.topology import total_stride
from gdmnet.preprocessing import prepare
from gdmnet.settings import Settings, add_settings, given_settings, setting
from gdmnet.training import log
from gdmnet.training.fold import train_fold
from gdmnet.training.settings import EncoderSettings, TrainingSettings
from gdmnet.training.validate import as_input

CONFIGURATION, FOLD, SETTINGS_JSON = "3d_fullres", "all", "settings.json"
RATIO = 0.3  # of every method with one
DIAL = (0.5, 1.5)  # 0 is the row regression, 1 the method's own
SEEDS = (0, 1, 2)
N_FITTED = 4  # training cases that stretch, filter and finish are fitted on
SAMPLED, SAMPLER_STEPS = ("flow", "bridge", "diffusion"), (1, 4, 16)
STRETCHES, FILTERS, FINISHES = (0.5, 1.0), (0.06, 0.12, 0.25, 0.5), (0.06, 0.12, 0.25)
# The drift begins at once: its norms are measured in the first steps of the ramp.
FINE_TUNING = {"regression_share": 0.0, "ramp_share": 0.1, "adapt_drift": False}
NO_LOSS = {"perceptual": 0.0}  # of features, unless a row says so, whatever the target
BUDGETS = (1.0, 1.0025, 1.005, 1.01, 1.02)  # of regression's MAE
JUDGED = {
    "frechet_self": "Frechet, plain",
    "frechet_groupnorm": "Frechet, GN",
    "gradient_w1": "gradients",
    "spectrum_distance": "spectrum",
    "histogram_w1": "histogram",
}
_PANEL = 2.4  # inches
N_PICTURED, WINDOW = 3, (-250.0, 350.0)  # cases; HU: soft tissue, with the edges of bone
PANELS = {
    "as predicted": ("mae", "frechet_self"),
    "after an intensity match": ("mae_matched", "frechet_matched"),
}
"""Title -> error and distance: both without a match, or both after one."""


@dataclasses.dataclass(frozen=True)
class StudySettings(Settings):
    """What all rows of a study have in common."""

    dataset: str = ""
    base_steps: int = setting(2500, "of the regression that every row starts from", least=1)
    steps: int = setting(600, "of every row", least=1)
    learning_rate: float = setting(4e-4, "of every row", above=0)
    encoder_steps: int = setting(400, "of the embedded encoder", least=1)
    judge_steps: int = setting(400, "of each judge", least=1)
    small: bool = setting(False, "a smaller network and patch")


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant: a training in gdm_train's words, or what is made of another row without any.

    Attributes:
        of: the row whose model is used; "" trains one.
        realism: T between regression and that row.
        after: "stretch" or "spectral": what is done to its predictions, so much of it.
        sampler_steps: of a sampled method, in place of those that it was trained with.
        from_regression: the training starts from the regression of its seed.
    """

    objective: str = "gdm"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encoder: str = "self"
    seed: int = 0
    of: str = ""
    realism: float | None = None
    after: str = ""
    strength: float = 0.0
    sampler_steps: int | None = None
    from_regression: bool = True


METHODS: dict[str, Row] = {
    "pooled": Row(options={"pairing": "pooled"}),
    "coupled": Row(options={"pairing": "coupled"}),
    "coupled_voxel": Row(options={"pairing": "coupled", "coordination": "voxel"}),
    "paired": Row(options={"pairing": "paired"}),
    "random_encoder": Row(options={"pairing": "coupled"}, encoder="random"),
    "deepbet_encoder": Row(options={"pairing": "coupled"}, encoder="deepbet"),
    "deepbet_pooled": Row(encoder="deepbet"),
    "deepbet_strong": Row(options={"drift_ratio": 3 * RATIO}, encoder="deepbet"),
    "pooled_strong": Row(options={"drift_ratio": 3 * RATIO}),
    "gan": Row("gan"),
    "gan_balanced": Row("gan", {"balance": RATIO}),
}
METHODS |= {f"pooled_perceptual_{w:g}": Row(options={"perceptual": w}) for w in (0.5, 2.0)}
METHODS |= {f"perceptual_{w:g}": Row("regression", {"perceptual": w}) for w in (0.1, 0.5, 2.0)}
WHOLE: dict[str, Row] = {
    "whole_regression": Row("regression"),
    "whole_regression_l2": Row("regression", {"fidelity": "l2"}),
    "whole_regression_l1_l2": Row("regression", {"fidelity": "l1_l2"}),
    "whole_regression_perceptual_2": Row("regression", {"perceptual": 2.0}),
    "whole_gan": Row("gan"),
    "whole_gan_balanced": Row("gan", {"balance": RATIO}),
    "whole": Row(),
    "whole_0.2": Row(options={"drift_ratio": 0.2}),  # as gdm_train has it
    "whole_perceptual_2": Row(options={"perceptual": 2.0}),
    "whole_0.2_perceptual_2": Row(options={"perceptual": 2.0, "drift_ratio": 0.2}),
    "whole_l2": Row(options={"fidelity": "l2"}),
    "whole_huber": Row(options={"fidelity": "huber"}),
    "whole_l1_l2": Row(options={"fidelity": "l1_l2"}),
    "whole_0.2_l1_l2": Row(options={"fidelity": "l1_l2", "drift_ratio": 0.2}),
    "whole_coupled": Row(options={"pairing": "coupled"}),
    "whole_paired": Row(options={"pairing": "paired"}),
}
METHODS |= {name: dataclasses.replace(r, from_regression=False) for name, r in WHOLE.items()}


def rows() -> dict[str, Row]:
    """All variants by name."""
    found = {"regression": Row("regression")}
    for name, row in METHODS.items():
        options = {"drift_ratio": RATIO, **row.options} if row.objective == "gdm" else row.options
        own = dataclasses.replace(row, options=options)
        for seed in SEEDS:
            found[_of_seed(name, seed)] = dataclasses.replace(own, seed=seed)
            for t in DIAL if row.from_regression else ():
                of = _of_seed(name, seed)
                found[f"{of}@{t:g}"] = dataclasses.replace(own, seed=seed, of=of, realism=t)
                if t < 1:
                    found |= _finished(f"{of}@{t:g}", found[f"{of}@{t:g}"])
    for seed in SEEDS:
        base = found[_of_seed("regression", seed)] = Row("regression", seed=seed)
        of = _of_seed("regression", seed)
        for s in STRETCHES:
            row = dataclasses.replace(base, of=of, after="stretch", strength=s)
            found[_of_seed(f"stretch_{s:g}", seed)] = row
        for a in FILTERS:
            row = dataclasses.replace(base, of=of, after="spectral", strength=a)
            found[_of_seed(f"spectral_{a:g}", seed)] = row
        for name, n in product(SAMPLED, SAMPLER_STEPS):
            of = _of_seed(f"{name}_steps_{SAMPLER_STEPS[0]}", seed)  # is trained
            row = Row(name, seed=seed, from_regression=False, sampler_steps=n)
            own = _of_seed(f"{name}_steps_{n}", seed)
            found[own] = dataclasses.replace(row, of="" if own == of else of)
    return found


def _finished(name: str, row: Row) -> dict[str, Row]:
    return {
        f"{name}+finish_{a:g}": dataclasses.replace(row, after="spectral", strength=a)
        for a in FINISHES
    }


def _twin_of(row: Row) -> str:
    """What a method is without its drift: the row at T = 0."""
    weight = row.options.get("perceptual") if row.objective == "gdm" else None
    return _of_seed(f"perceptual_{weight:g}" if weight else "regression", row.seed)


def _of_seed(name: str, seed: int) -> str:
    return f"{name}_seed{seed}" if seed else name


def fronts(seed: int = 0) -> dict[str, list[str]]:
    """Curve -> its rows from regression on, by strength."""

    def of_seed(*names: str) -> list[str]:
        return [_of_seed(name, seed) for name in ("regression", *names)]

    found = {}
    for name, row in METHODS.items():
        own = _of_seed(name, seed)
        if not row.from_regression:
            continue
        weakest = dict.fromkeys([*of_seed(), _twin_of(dataclasses.replace(row, seed=seed))])
        found[name] = [*weakest, f"{own}@0.5", own, f"{own}@1.5"]
        finishes = [f"{own}@0.5+finish_{a:g}" for a in FINISHES]
        found[f"{name} + finish"] = [*of_seed(), *finishes]
    weaker = {name: name.replace("whole", "whole_0.2", 1) for name in WHOLE}
    for name in WHOLE:
        if name not in weaker.values():
            names = dict.fromkeys(("whole_regression", weaker[name], name))
            found[name] = [_of_seed(one, seed) for one in names if one in WHOLE]
    found["stretch"] = of_seed(*(f"stretch_{s:g}" for s in STRETCHES))
    found["spectral"] = of_seed(*(f"spectral_{a:g}" for a in FILTERS))
    for name, n in product(SAMPLED, SAMPLER_STEPS):
        found[f"{name}, {n} steps"] = of_seed(f"{name}_steps_{n}")
    return found


class Study:
    """A study in its folder: gdmnet_preprocessed/, encoders/, rows/, table.md, front.png."""

    def __init__(self, home: Path, raw: Path, settings: StudySettings) -> None:
        self.home, self.settings = home, settings
        self.dataset = settings.dataset
        self.roots = Roots(raw, home / folders.PREPROCESSED, home / folders.RESULTS)
        self.held_out = judging.HeldOut(raw / self.dataset, settings.judge_steps)
        bases = {_of_seed("base", seed): Row("regression", seed=seed) for seed in SEEDS}
        self.rows = bases | rows()
        file = home / SETTINGS_JSON
        if file.is_file() and (known := codec.load(StudySettings, file)) != settings:
            raise OutputError(f"{home}: its rows were made with {known}; take another folder")

    def run(self, names: list[str]) -> None:
        """Make what is missing of the rows that are named and of those that they start from."""
        self._prepare()
        how = self.settings
        title = f"{self.dataset}, {how.base_steps} + {how.steps} steps"
        every = [one for name in names for one in (*self._before(name), name)]
        for name in dict.fromkeys(every):
            self.held_out.make_row(self.home, name, partial(self._make, name))
            found = judging.finished(self.home)
            notes = [*equal_error_table(found), "", *over_seeds(found)]
            judging.write_table(self.home, list(self.rows), title, notes)
            draw_fronts(found, self.home / "front.png")

    def predictions(self, name: str) -> Path:
        """The folder of a row's predictions."""
        return self.home / "rows" / name / judging.PREDICTIONS

    def _before(self, name: str) -> list[str]:
        """The rows that a row is made of."""
        row = self.rows[name]
        others = [] if row.realism is None else [_twin_of(row)]
        return [*others, *([row.of] if row.of else [])]

    def _prepare(self) -> None:
        """Plan and prepare, once."""
        file = self.home / SETTINGS_JSON
        if not file.is_file():
            options = plan_and_preprocess.PlanOptions(
                preset="cpu", configurations=(CONFIGURATION,), replan=True
            )
            plan = plan_and_preprocess.run(self.dataset, self.roots, options)
            if self.settings.small:
                place = self.roots.preprocessed / self.dataset
                codec.save(smaller(plan), place / folders.PLAN_JSON)
            codec.save(self.settings, file)

    def _make(self, name: str, out: Path) -> dict[str, float]:
        """The model of one row, and its predictions; what was measured meanwhile."""
        row, measured = self.rows[name], {}
        if not row.of:
            measured["seconds_a_step"] = self._train(name, row)
        how = PredictionSettings(
            realism=row.realism,
            step_size=0.75 if self.settings.small else 0.5,
            steps=row.sampler_steps,
        )
        model, images = self._model(name), self.held_out.raw / "imagesTs"
        if row.after:
            self._adapt(row, load_model(model, how, folds=[FOLD]), out)
            return measured
        choice = ModelChoice(model=model, folds=(FOLD,))
        options = predict.PredictionOptions(overwrite=True)
        predict.run(images, out, self.roots, choice, how, options)
        return measured | {"seconds_a_volume": judging.seconds_a_volume(out)}

    def _adapt(self, row: Row, translator: Translator, out: Path) -> None:
        """Predictions of held-out cases after a stretch or a filter fitted on training cases."""
        store = self.roots.preprocessed / self.dataset / CONFIGURATION
        names = [case.identifier for case in self.held_out.training[:N_FITTED]]
        stored = [open_case(store, name) for name in names]
        known = (
            FinishCase(
                translator.predict(as_input(case)).mean[0],
                case.target[:][0],
                case.body[:] > 0,
                case.record.spacing,
            )
            for case in stored
        )
        adapt = AFTER[row.after](known, row.strength)
        out.mkdir(parents=True, exist_ok=True)
        for files in self.held_out.cases:
            sources = dataclasses.replace(files, target=None)
            case = prepare(sources, translator.configuration)
            mean = translator.predict(case).mean[0]
            changed = adapt(mean, case.body > 0, case.record.spacing)[None]
            volume = translator.restore(Estimate(changed, None), case)
            path = out / f"{files.identifier}{translator.plan.file_ending}"
            write_volume(path, volume, integer=translator.plan.integer_output)

    def _train(self, name: str, row: Row) -> float:
        """Train one row; seconds a step: of the median epoch, its validation included."""
        how, base = self.settings, _of_seed("base", row.seed)
        is_base, tunes = name == base, row.from_regression and name != base
        own = NO_LOSS | (FINE_TUNING if tunes else {}) if row.objective == "gdm" else {}
        steps = how.base_steps if is_base else how.steps if tunes else how.base_steps + how.steps
        begun = (self._fold(name) / folders.LATEST).is_file()
        settings = TrainingSettings(
            objective=row.objective,
            objective_options=own | dict(row.options),
            epochs=max(1, steps // 50),
            iterations=min(50, steps),
            learning_rate=how.learning_rate if tunes else None,
            seed=row.seed,
            pretrained=self._fold(base) / folders.FINAL if tunes else None,
            encoder=EncoderSettings(row.encoder, iterations=how.encoder_steps),
            encoder_root=self.home / "encoders" / f"seed_{row.seed}",
            resume=begun,
            overwrite=not begun,
            validates=False,
        )
        roots = dataclasses.replace(self.roots, results=self.home / "rows" / name)
        fold = self._fold(name)
        if tunes and not (self._fold(base) / folders.FINAL).is_file():
            self._train(base, self.rows[base])
        if not (fold / folders.FINAL).is_file():
            train_fold(self.dataset, CONFIGURATION, FOLD, roots, settings)
        return median(record["seconds"] for record in log.read(fold)) / settings.iterations

    def _model(self, name: str) -> Path:
        """What a row predicts with; a dialled model has its twin's weights beside."""
        row = self.rows[name]
        if row.realism is None:
            return self._fold(row.of or name).parent
        origin, fold = self._fold(row.of), self._fold(f"{row.of}@dial")
        if not (fold / folders.FINAL).is_file():
            shutil.copytree(origin.parent, fold.parent, dirs_exist_ok=True)
            twin = checkpoint.load(self._fold(_twin_of(row)) / folders.FINAL)["ema"]
            state = checkpoint.load(origin / folders.FINAL)
            checkpoint.save(fold / folders.FINAL, {**state, "twin": twin})
        return fold.parent

    def _fold(self, name: str) -> Path:
        """The folder of a row's training."""
        objective = self.rows[name.removesuffix("@dial")].objective
        results = self.home / ("models" if name.endswith("@dial") else "rows") / name
        model = folders.model_folder(results, self.dataset, objective, CONFIGURATION)
        return folders.fold_folder(model, FOLD)


Adaptation = Callable[[NDArray, NDArray, Spacing], NDArray]
"""A prediction (z, y, x), the body and the spacing to another prediction."""


def fit_stretch(cases: Iterable[FinishCase], strength: float) -> Adaptation:
    """One gain about the body's median that gives predictions the deviation of the targets."""
    gains = [float(c.target[c.body].std() / c.prediction[c.body].std()) for c in cases]
    gain = 1 + strength * (float(np.mean(gains)) - 1)

    def stretch(image: NDArray, body: NDArray, spacing: Spacing) -> NDArray:
        centre = np.median(image[body])
        return np.where(body, centre + gain * (image - centre), image).astype(np.float32)

    return stretch


def fit_filter(cases: Iterable[FinishCase], strength: float) -> Adaptation:
    """The spectral finish at one strength."""
    return partial(apply_finish, dataclasses.replace(fit_finish(cases), strength=strength))


AFTER: dict[str, Callable[[Iterable[FinishCase], float], Adaptation]] = {
    "stretch": fit_stretch,
    "spectral": fit_filter,
}


def smaller(plan: Plan) -> Plan:
    """Half the features, two thirds of the patch, in whole multiples of the total stride."""
    configuration = plan.configurations[CONFIGURATION]
    architecture = configuration.architecture
    edges = zip(configuration.patch_size, total_stride(architecture.strides), strict=True)
    features = tuple(n // 2 for n in architecture.features)
    small = dataclasses.replace(
        configuration,
        patch_size=tuple(max(s, 2 * n // 3 // s * s) for n, s in edges),
        architecture=dataclasses.replace(architecture, features=features),
    )
    return dataclasses.replace(plan, configurations={CONFIGURATION: small})


Figures = Mapping[str, Mapping[str, float]]
"""Row -> key of `judging.COLUMNS` -> value."""


def equal_error_table(found: Figures) -> list[str]:
    """Each method's figures as ratios to regression at budgets of the MAE, ratios too, in Markdown.

    Means over the seeds, and their deviation where there are several.
    """
    lines = [f"| within so much MAE | seeds | {' | '.join(JUDGED.values())} |", "|---" * 7 + "|"]
    every = [fronts(seed) for seed in SEEDS]
    for name, budget in product(every[0], BUDGETS):
        of_seeds = [
            [at_equal_error(found, own[name], key, budget) for key in JUDGED] for own in every
        ]
        known = [values for values in of_seeds if values[0] is not None]
        if known:
            cells = [_mean_cell(own) for own in zip(*known, strict=True)]
            lines.append(f"| {name}, {budget:g} | {len(known)} | {' | '.join(cells)} |")
    return lines


def _mean_cell(values: Sequence[float]) -> str:
    apart = f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{apart}"


def at_equal_error(found: Figures, names: Sequence[str], key: str, budget: float) -> float | None:
    """A figure over regression's where a front last has at most `budget` of regression's MAE.

    Linear between rows; of the strongest row where that stays below the budget; None where the
    front has no row beside regression, its first.
    """
    known = [found[name] for name in names if name in found]
    if names[0] not in found or len(known) < 2:
        return None
    first = known[0]
    points = [(row["mae"] / first["mae"], row[key] / first[key]) for row in known]
    for (x, y), (x_next, y_next) in zip(points[-2::-1], points[:0:-1], strict=True):
        if x <= budget < x_next:
            return y + (budget - x) / (x_next - x) * (y_next - y)
    return points[-1][1]


def over_seeds(found: Figures) -> list[str]:
    """With several seeds: mean and deviation of each method's ratios to a regression like it."""
    lines = []
    for name in METHODS:
        like_it = "whole_regression" if name in WHOLE else "regression"
        pairs = [
            (found[_of_seed(like_it, seed)], found[_of_seed(name, seed)])
            for seed in SEEDS
            if name != like_it and {_of_seed(like_it, seed), _of_seed(name, seed)} <= set(found)
        ]
        if len(pairs) < 2:
            continue
        ratios = []
        for key, title in judging.COLUMNS.items():
            values = [own[key] / base[key] for base, own in pairs if base.get(key)]
            if len(values) > 1:
                ratios.append(f"{title} {np.mean(values):.3f} +- {np.std(values, ddof=1):.3f}")
        lines.append(f"{name} over {like_it}, {len(pairs)} seeds: {', '.join(ratios)}")
    return lines


def draw_fronts(found: Figures, path: Path) -> None:
    """Errors over distances, a curve for each front with enough rows.

    What stands after an intensity match is never drawn over what does not: a mere stretch of the
    contrast would cost nothing there.
    """
    charts = []
    for title, (error, distance) in PANELS.items():
        curves = []
        for name, names in fronts().items():
            known = [found[row] for row in names if row in found and error in found[row]]
            points = [(row[distance], row[error]) for row in known]
            if len(points) > 2:
                curves.append(Curve(name, points))
        axis = f"Frechet distance, plain judge, {title}"
        charts.append(Chart(f"MAE, {title}", curves, x_title=axis))
    if any(chart.curves for chart in charts):
        save_charts(charts, path, heading="", n_columns=len(charts))


def draw_cases(study: Study, names: Sequence[str], path: Path) -> None:
    """Held-out cases, two lines each: source, predictions of the rows that are named, target.

    The middle axial slice of the body, then its centre magnified. All but the source have the
    target's window: its percentiles 1 to 99.5 in the body, for CT WINDOW.
    """
    from matplotlib.figure import Figure

    cases = study.held_out.cases[:N_PICTURED]
    found = [Subjects(cases, images_by_case(study.predictions(name))) for name in names]
    kinds = {name: study.rows[name].objective for name in names}
    titles = ("source", *(f"gdm ({n})" if kinds[n] == "gdm" else n for n in names), "target")
    firsts = [subjects[0] for subjects in zip(*found, strict=True)]
    is_ct = [float(one.real.min()) < CT_LIKE_MINIMUM for one in firsts]
    # Of CTs that count in all of their field of view only the patient is shown.
    shown = [
        one.real > WINDOW[0] if ct else one.mask for one, ct in zip(firsts, is_ct, strict=True)
    ]
    boxes = [bounding_box(mask, (0, 3, 3)) for mask in shown]
    heights = [_height(box, one.spacing) for box, one in zip(boxes, firsts, strict=True)]
    size = _PANEL * len(titles), 2 * sum(_PANEL * height + 0.25 for height in heights)
    figure = Figure(size, dpi=110, layout="constrained")
    ratios = {"height_ratios": np.repeat(heights, 2)}
    panels = figure.subplots(2 * len(cases), len(titles), squeeze=False, gridspec_kw=ratios)
    for i, (subjects, box) in enumerate(zip(zip(*found, strict=True), boxes, strict=True)):
        one, source = subjects[0], read_volume(cases[i].sources[0]).array[0]
        middle, centre = (box[0][0] + box[0][1]) // 2, [(a + b) // 2 for a, b in box[1:]]
        near = [
            (c - (b - a) // 5, c + (b - a) // 5) for c, (a, b) in zip(centre, box[1:], strict=True)
        ]
        for j, image in enumerate((source, *(s.prediction for s in subjects), one.real)):
            own = source if j == 0 else one.real
            window = WINDOW if is_ct[i] and j else np.percentile(own[one.mask != 0], (1, 99.5))
            for k, (rows, columns) in enumerate((box[1:], near)):
                axes = panels[2 * i + k][j]
                part = image[middle, slice(*rows), slice(*columns)]
                aspect = one.spacing[1] / one.spacing[2]
                axes.imshow(part, "gray", aspect=aspect, vmin=window[0], vmax=window[1])
                axes.set_axis_off()
        for axes, title in zip(panels[2 * i], titles, strict=True):
            axes.set_title(title, fontsize=9)
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", metadata={"Software": None})


def _height(box: Box, spacing: Spacing) -> float:
    """Of an axial slice of a box over its width."""
    y, x = ((last - first) * mm for (first, last), mm in zip(box[1:], spacing[1:], strict=True))
    return y / x


def build_parser() -> argparse.ArgumentParser:
    """Of the study."""
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("dataset", help="501 or Dataset501_Name")
    parser.add_argument("-o", dest="home", type=Path, required=True, metavar="STUDY")
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=rows(), help="(default: all)")
    words = "of rows that are there: STUDY/pictures.png and nothing else"
    parser.add_argument("--pictures", nargs="+", choices=rows(), metavar="ROW", help=words)
    add_settings(parser, StudySettings)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, row by row."""
    args = build_parser().parse_args(argv)

    def body() -> int:
        given = given_settings(args, StudySettings)
        given["dataset"] = folders.resolve_dataset(args.dataset, args.raw)
        study = Study(args.home, args.raw, StudySettings(**given))
        if args.pictures:
            draw_cases(study, args.pictures, args.home / "pictures.png")
        else:
            study.run(args.rows or list(rows()))
        return 0

    return guarded(body)


if __name__ == "__main__":
    sys.exit(main())
