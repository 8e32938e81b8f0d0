"""What each part of the method brings: every variant fine-tuned from one regression.

    python documentation/benchmarks/method_study.py 501 -o STUDY --raw RAW [--rows NAME ...]
    python documentation/benchmarks/method_study.py 501 -o STUDY --raw RAW --list

The dataset is planned and prepared into STUDY, one regression a seed is trained on all its training
cases, and every row is then trained for equal steps from that checkpoint, with the same seed and
patches. Judged on imagesTs against targetsTs alone, on whole volumes (see `method_figures.py`).
Rows run one after the other, each in a process of its own (its peak memory is a column); what is
finished is kept, so the script can be stopped and started again, or started twice with different
rows. STUDY/table.md, front.png and pictures/ are made anew after every row. The rows `dial_T` need
no training: theirs are the weights between regression and pooled, as `--realism T` takes them.
On a slow machine `--small` halves the generator's and the encoder's features, takes five sixths of
the patch and overlaps windows by a quarter: other figures, the same comparison. Every dataset,
and every change of these settings, needs a STUDY folder of its own; one of others is refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from method_figures import Bench, draw_front, draw_pictures, write_table
from torch import nn

from gdmnet import codec, folders
from gdmnet.commands import plan_and_preprocess
from gdmnet.compare.judge import GroupNormEncoder
from gdmnet.data.raw import read_description, test_cases
from gdmnet.data.splits import split_for
from gdmnet.encoders import FrozenEncoder, freeze_norms
from gdmnet.encoders.self_supervised import cell_shape, decoder_for, encoder_for
from gdmnet.inference.model import load_model
from gdmnet.models import checkpoint
from gdmnet.models.card import PredictionSettings
from gdmnet.models.device import find_device
from gdmnet.objectives.build import OBJECTIVES, context_of, generator_of
from gdmnet.plan import Plan, Recipe
from gdmnet.planning.topology import total_stride
from gdmnet.training import log
from gdmnet.training.batches import Batches
from gdmnet.training.feature_encoder import EncoderChoice, prepare_encoder, target_patches
from gdmnet.training.loop import fit
from gdmnet.training.pretrain import pretraining_patch, split_cases, train_autoencoder
from gdmnet.training.start import Options, describe, keep_plan, open_cases

CONFIGURATION = "3d_fullres"
BASE = "base"
RATIOS = (0.05, 0.1, 0.3, 0.6)  # beside the default's 0.2
ENCODERS = {
    "self": (EncoderChoice("self", iterations=400), "encoder"),
    "long": (EncoderChoice("self", iterations=1600), "encoder_long"),
    "random": (EncoderChoice("random"), "encoder"),
}
"""Row.encoder -> what to prepare, and the folder in STUDY that keeps it."""
GROUPNORM = ("groupnorm", "groupnorm_frozen", "random_groupnorm", "random_groupnorm_frozen")
DIAL = (0.25, 0.5, 0.75, 1.25, 1.5)  # 0 is the row regression, 1 the row pooled


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant: the objective's options, which encoder carries the features, or the dial's T."""

    objective: str = "gdm"
    encoder: str = "self"
    options: dict = dataclasses.field(default_factory=dict)
    seed: int = 0
    dial: float | None = None


def rows() -> dict[str, Row]:
    """All variants by name; each differs from the default, `pooled`, in one thing."""
    found = {
        "regression": Row("regression"),
        "perceptual": _part(pairing="paired"),
        "pooled": _part(pairing="pooled"),
    }
    for name in ("random", *GROUPNORM):
        found[f"encoder_{name}"] = _part(encoder=name)
    for name in ("global", "local", "spatial"):
        found[f"only_{name}"] = _part(levels=[name])
    for name, temperatures in (("low", (0.02, 0.05, 0.2)), ("0.05", (0.05,)), ("1", (1.0,))):
        found[f"temperature_{name}"] = _part(temperatures=temperatures)
    found["locations_1024"] = _part(locations=1024, bank=2048)
    found["bank_0"] = _part(bank=0)
    found["ramp_0.5"] = _part(ramp_share=0.5)
    found["late_0.5"] = _part(regression_share=0.5)
    found["encoder_long"] = _part(encoder="long")
    found["every_2nd"] = _part(every=2)
    found |= {f"dial_{t:g}": Row(dial=t) for t in DIAL}
    for ratio in RATIOS:
        for pairing in ("pooled", "paired"):
            found[f"{pairing}_r{ratio:g}"] = _part(pairing=pairing, drift_ratio=ratio)
        for encoder in ("random", "groupnorm_frozen"):
            found[f"encoder_{encoder}_r{ratio:g}"] = _part(encoder=encoder, drift_ratio=ratio)
    for seed in (1, 2):
        found[f"regression_seed{seed}"] = Row("regression", seed=seed)
        found[f"pooled_seed{seed}"] = Row(seed=seed)
    return found


def _part(encoder: str = "self", **options: object) -> Row:
    return Row(encoder=encoder, options=options)


@dataclasses.dataclass(frozen=True)
class Study:
    """Where everything lies and how long it takes."""

    dataset: str
    raw: Path
    home: Path
    base_steps: int
    steps: int
    rate: float
    small: bool = False

    @property
    def prepared(self) -> Path:
        """Folder of the dataset's plan and prepared cases."""
        return self.home / folders.PREPROCESSED / self.dataset

    @property
    def plan(self) -> Plan:
        """The dataset's plan, or the one of a study with `--small`."""
        plan = codec.load(Plan, self.prepared / folders.PLAN_JSON)
        return smaller(plan) if self.small else plan

    def folder(self, row: str) -> Path:
        """Of a row: holds row.json when it is done."""
        return self.home / "rows" / row

    def model(self, row: Row, name: str) -> Path:
        """A row's model folder, below its own."""
        kind = "regression" if name.startswith((BASE, "regression")) else row.objective
        return folders.model_folder(self.folder(name), self.dataset, kind, CONFIGURATION)


def smaller(plan: Plan) -> Plan:
    """Half the features, five sixths of the patch, in whole multiples of the total stride."""
    configuration = plan.configurations[CONFIGURATION]
    architecture = configuration.architecture
    stride = total_stride(architecture.strides)
    patch = tuple(
        max(s, 5 * n // 6 // s * s) for n, s in zip(configuration.patch_size, stride, strict=True)
    )
    features = tuple(n // 2 for n in architecture.features)
    small = dataclasses.replace(
        configuration,
        patch_size=patch,
        architecture=dataclasses.replace(architecture, features=features),
    )
    return dataclasses.replace(plan, configurations={CONFIGURATION: small})


def check_settings(study: Study, parser: argparse.ArgumentParser) -> None:
    """Refuse a STUDY folder whose rows were made with other settings; a new one takes these."""
    file = study.home / "settings.json"
    settings = codec.encode(dataclasses.replace(study, home=Path(), raw=Path()))
    if file.is_file() and (known := codec.read_json(file)) != settings:
        differ = ", ".join(
            f"{name} {known.get(name)}" for name in settings if known.get(name) != settings[name]
        )
        parser.error(f"{study.home}: its rows were made with {differ}; take another folder")
    codec.save(settings, file)


def prepare_dataset(study: Study) -> None:
    """Plan and prepare, once."""
    if not (study.prepared / folders.PLAN_JSON).is_file():
        roots = folders.Roots(study.raw, study.home / folders.PREPROCESSED, study.home)
        plan_and_preprocess.run(
            study.dataset,
            roots,
            plan_and_preprocess.PlanOptions(preset="cpu", configurations=(CONFIGURATION,)),
        )


def run_row(study: Study, name: str, row: Row) -> None:
    """Train one row (the base without a start) and predict the test cases."""
    plan = study.plan
    configuration = plan.configurations[CONFIGURATION]
    is_base = name.startswith(BASE)
    steps = study.base_steps if is_base else study.steps
    device = find_device("auto")
    options = Options(
        objective=row.objective,
        epochs=max(1, steps // 50),
        iterations=min(50, steps),
        learning_rate=None if is_base else study.rate,
        seed=row.seed,
        objective_options={} if row.objective == "regression" else _fine_tuning(row.options),
        encoder=ENCODERS.get(row.encoder, ENCODERS["random"])[0],
    )
    split = split_for("all", study.prepared / folders.SPLITS_JSON)
    cases, _ = open_cases(study.prepared / CONFIGURATION, split)
    described = describe(plan, configuration, "all", split, options, device)
    model = study.model(row, name)
    fold = folders.fold_folder(model, "all")
    recipe = described.recipe
    encoder = None
    if row.objective != "regression":
        encoder = make_encoder(row.encoder, study, cases, recipe, device)
    context = context_of(
        configuration,
        described.options,
        total_steps=recipe.total_steps,
        seed=row.seed,
        encoder=encoder,
    )
    objective = OBJECTIVES[row.objective](context)
    torch.manual_seed(row.seed)
    generator = generator_of(configuration, objective.inputs)
    if not is_base:
        base = folders.fold_folder(study.model(row, _base_of(row.seed)), "all")
        checkpoint.load_pretrained(generator, base / folders.FINAL)
    keep_plan(model, plan, study.prepared / folders.FINGERPRINT_JSON)
    codec.save(described, fold / folders.RUN_JSON)
    training = Batches(cases, configuration, seed=row.seed, augment=True)
    validation = Batches(cases, configuration, seed=row.seed, augment=False)
    fit(generator, objective, training, validation, recipe, fold, device)
    epochs = sorted(record["seconds"] / recipe.iterations for record in log.read(fold))
    # the median epoch, its validation included
    measured = {"steps": steps, "seconds_a_step": epochs[len(epochs) // 2]}
    keep_predictions(study, name, row, model, measured)


def _fine_tuning(options: dict) -> dict:
    """The drift begins at once: its norms are measured in the first steps of the ramp."""
    return {"regression_share": 0.0, "ramp_share": 0.1, "adapt_drift": False} | options


def _base_of(seed: int) -> str:
    return BASE if seed == 0 else f"{BASE}_seed{seed}"


def make_encoder(
    name: str, study: Study, cases: Sequence, recipe: Recipe, device: torch.device
) -> nn.Module:
    """The embedded encoder, the random control, or either with GroupNorm, moving or frozen."""
    configuration = study.plan.configurations[CONFIGURATION]
    if name in ENCODERS:
        choice, folder = ENCODERS[name]
        return prepare_encoder(
            choice,
            cases,
            configuration,
            fingerprint=None,
            folder=study.home / folder,
            recipe=recipe,
            device=device,
        )
    encoder = GroupNormEncoder(encoder_for(configuration.architecture, seed=recipe.seed))
    if not name.startswith("random"):
        train_groupnorm(encoder, study, cases, recipe, device)
    frozen = FrozenEncoder(encoder).to(device)
    if name.endswith("frozen"):
        freeze_norms(frozen, target_patches(cases, configuration, recipe.seed, device))
    return frozen


def train_groupnorm(
    encoder: nn.Module, study: Study, cases: Sequence, recipe: Recipe, device: torch.device
) -> None:
    """As the embedded encoder is trained; once a study and seed."""
    configuration = study.plan.configurations[CONFIGURATION]
    file = study.home / "encoder" / f"groupnorm_{recipe.seed}.pt"
    if file.is_file():
        encoder.load_state_dict(torch.load(file, weights_only=True))
        return
    shape = pretraining_patch(configuration.patch_size)
    network = nn.Sequential(encoder, decoder_for(encoder, seed=recipe.seed + 1)).to(device)
    train_autoencoder(
        network,
        split_cases(cases)[0],
        shape,
        cell_shape(configuration.spacing, shape),
        iterations=400,
        seed=recipe.seed,
        precision=recipe.precision,
    )
    torch.save(encoder.cpu().state_dict(), file)


def keep_predictions(study: Study, name: str, row: Row, model: Path, measured: dict) -> None:
    """Predict the test cases and write trained.json: the row can then be judged."""
    step_size = 0.75 if study.small else 0.5
    translator = load_model(
        model, PredictionSettings(realism=row.dial, step_size=step_size), folds=["all"]
    )
    out = study.folder(name) / "predictions"
    out.mkdir(exist_ok=True)
    raw = study.raw / study.dataset
    seconds = []
    for files in test_cases(raw, read_description(raw))[0]:
        begin = time.perf_counter()
        image = translator.translate_case(files).array[0]
        seconds.append(time.perf_counter() - begin)
        np.save(out / f"{files.identifier}.npy", image)
    measured["seconds_a_volume"] = sum(seconds) / len(seconds)
    measured["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    codec.save({"row": row, "measured": measured}, study.folder(name) / "trained.json")


def dial_row(study: Study, name: str, row: Row) -> None:
    """Predict with the weights between those of two finished rows, regression and pooled."""
    of = {kind: study.model(row, kind) for kind in ("regression", "pooled")}
    fold = folders.fold_folder(study.model(row, name), "all")
    fold.mkdir(parents=True, exist_ok=True)
    origin = folders.fold_folder(of["pooled"], "all")
    shutil.copy(of["pooled"] / folders.PLAN_JSON, fold.parent)
    shutil.copy(origin / folders.RUN_JSON, fold)
    state = checkpoint.load(origin / folders.FINAL)
    twin = folders.fold_folder(of["regression"], "all") / folders.FINAL
    state["twin"] = checkpoint.load(twin)["ema"]
    torch.save(state, fold / folders.FINAL)
    keep_predictions(study, name, row, fold.parent, {})


def main() -> None:
    """Run what is missing, row by row, each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("-o", dest="home", type=Path, required=True)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", help="default: all")
    parser.add_argument("--base-steps", type=int, default=2500)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--small", action="store_true", help="a smaller network and patch")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    every = rows()
    if args.list:
        print("\n".join(every))
        return
    dataset = folders.resolve_dataset(args.dataset, args.raw)
    study = Study(
        dataset,
        args.raw,
        args.home,
        args.base_steps,
        args.steps,
        args.learning_rate,
        small=args.small,
    )
    chosen = args.rows or list(every)
    every |= {_base_of(seed): Row("regression", seed=seed) for seed in (0, 1, 2)}
    if args.here:
        (name,) = chosen
        row = every[name]
        (run_row if row.dial is None else dial_row)(study, name, row)
        return
    check_settings(study, parser)
    prepare_dataset(study)
    sources = study.plan.configurations[CONFIGURATION].sources
    bench = Bench(study.raw / dataset, study.home, sources)
    for name in dict.fromkeys([*(_base_of(every[name].seed) for name in chosen), *chosen]):
        folder = study.folder(name)
        if not (folder / "trained.json").is_file():
            print(f"== {name}", flush=True)
            again = [sys.executable, __file__, *sys.argv[1:]]
            without_rows = again[: again.index("--rows")] if args.rows else again
            subprocess.run([*without_rows, "--here", "--rows", name], check=True)
        if not (folder / "row.json").is_file():
            bench.judge(folder)
        write_table(
            study.home, [BASE, *every], f"{dataset}, {args.base_steps} + {args.steps} steps"
        )
        draw_front(study.home)
        draw_pictures(bench, study.home)


if __name__ == "__main__":
    main()
