"""What each part of the method brings: every variant fine-tuned from one regression.

    python documentation/benchmarks/method_study.py 501 -o STUDY --raw RAW [--rows NAME ...]
    python documentation/benchmarks/method_study.py 501 -o STUDY --raw RAW --list

The dataset is planned and prepared into STUDY, one regression is trained on all its training
cases, and every row is then trained for equal steps from that checkpoint, with the same seed and
patches. Judged on imagesTs against targetsTs alone, on whole volumes. Rows run one after the
other, each in a process of its own (its peak memory is a column); what is finished is kept, so
the script can be stopped and started again, or started twice with different rows. STUDY/table.md
is written anew after every row. Judges are two encoders trained on the training targets (one
without normalisation, one with GroupNorm; other widths and seeds than any training's encoder).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from gdmnet import codec, folders
from gdmnet.commands import plan_and_preprocess
from gdmnet.data.case import CaseFiles
from gdmnet.data.raw import read_description, test_cases, training_cases
from gdmnet.data.splits import split_for
from gdmnet.data.volume import read_channels, read_volume
from gdmnet.encoders import Frozen, freeze_norms
from gdmnet.encoders.self_supervised import cell_shape, decoder_for, encoder_for
from gdmnet.inference.model import load_model
from gdmnet.metrics.image import match_linear
from gdmnet.metrics.score import score
from gdmnet.metrics.statistics import Values, aggregate_cases
from gdmnet.networks.unet import build_generator
from gdmnet.objectives import OBJECTIVES
from gdmnet.objectives.base import Context
from gdmnet.plan import Plan, Recipe
from gdmnet.training import log
from gdmnet.training.batches import Batches
from gdmnet.training.checkpoint import load_pretrained
from gdmnet.training.device import find_device
from gdmnet.training.feature_encoder import EncoderChoice, prepare_encoder, target_patches
from gdmnet.training.judge import GroupNormEncoder, Subject, make_judge
from gdmnet.training.loop import fit
from gdmnet.training.pretrain import pretraining_patch, split_cases, train_autoencoder
from gdmnet.training.start import Options, describe, keep_plan, open_cases
from gdmnet.training.verdict import give_verdict

CONFIGURATION = "3d_fullres"
BASE = "base"
RATIOS = (0.05, 0.1, 0.3, 0.6)  # beside the default's 0.2
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


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant: the objective's options, and which encoder carries the features."""

    objective: str = "gdm"
    encoder: str = "self"
    options: dict = dataclasses.field(default_factory=dict)
    seed: int = 0


def rows() -> dict[str, Row]:
    """All variants by name; the default is `hybrid`."""
    found = {"regression": Row("regression")}
    found |= {
        name: Row(options={"pairing": pairing})
        for name, pairing in (
            ("perceptual", "paired"),
            ("hybrid", "hybrid"),
            ("pooled", "pooled"),
            ("per_location", "per_location"),
        )
    }
    for name in ("balance", "sum", "pcgrad", "mgda", "config"):
        found[f"coordination_{name}"] = Row(options={"coordination": name})
    for name in ("random", "groupnorm", "groupnorm_frozen"):
        found[f"encoder_{name}"] = Row(encoder=name)
    found["floor_1e-6"] = Row(options={"affinity_floor": 1e-6})
    found["floor_0"] = Row(options={"affinity_floor": 0.0})
    found["no_level_balance"] = Row(options={"level_balance": False})
    for name in ("global", "local", "spatial", "raw"):
        found[f"only_{name}"] = Row(options={"levels": [name]})
    found["every_2nd"] = Row(options={"every": 2})
    found["crop_0.7"] = Row(options={"encoder_crop": 0.7})
    for ratio in RATIOS:
        for pairing in ("hybrid", "pooled", "paired"):
            found[f"{pairing}_r{ratio:g}"] = Row(options={"pairing": pairing, "drift_ratio": ratio})
        for encoder in ("random", "groupnorm_frozen"):
            found[f"encoder_{encoder}_r{ratio:g}"] = Row(
                encoder=encoder, options={"drift_ratio": ratio}
            )
    for seed in (1, 2):
        found[f"regression_seed{seed}"] = Row("regression", seed=seed)
        found[f"hybrid_seed{seed}"] = Row(seed=seed)
    return found


@dataclasses.dataclass(frozen=True)
class Study:
    """Where everything lies and how long it takes."""

    dataset: str
    raw: Path
    home: Path
    base_steps: int
    steps: int
    rate: float

    @property
    def prepared(self) -> Path:
        """Folder of the dataset's plan and prepared cases."""
        return self.home / folders.PREPROCESSED / self.dataset

    @property
    def plan(self) -> Plan:
        """The dataset's plan."""
        return codec.load(Plan, self.prepared / folders.PLAN_JSON)

    def folder(self, row: str) -> Path:
        """Of a row: holds row.json when it is done."""
        return self.home / "rows" / row


def prepare_dataset(study: Study) -> None:
    """Plan and prepare, once."""
    if not (study.prepared / folders.PLAN_JSON).is_file():
        roots = folders.Roots(study.raw, study.home / folders.PREPROCESSED, study.home)
        plan_and_preprocess.run(
            study.dataset,
            roots,
            plan_and_preprocess.Options(preset="cpu", configurations=(CONFIGURATION,)),
        )


def run_row(study: Study, name: str, row: Row) -> None:
    """Train one row (the base without a start), predict the test cases, judge, write row.json."""
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
        encoder=EncoderChoice("random" if row.encoder != "self" else "self"),
    )
    split = split_for("all", study.prepared / folders.SPLITS_JSON)
    cases, _ = open_cases(study.prepared / CONFIGURATION, split)
    described = describe(plan, configuration, "all", split, options, device)
    model = folders.model_folder(study.folder(name), study.dataset, row.objective, CONFIGURATION)
    fold = folders.fold_folder(model, "all")
    recipe = described.recipe
    encoder = None
    if row.objective != "regression":
        encoder = make_encoder(row.encoder, study, cases, recipe, device)
    context = Context(
        total_steps=recipe.total_steps,
        patch_size=configuration.patch_size,
        spacing=configuration.spacing,
        n_sources=len(configuration.sources),
        encoder=encoder,
        seed=row.seed,
        options=described.options,
        architecture=configuration.architecture,
    )
    objective = OBJECTIVES[row.objective](context)
    torch.manual_seed(row.seed)
    generator = build_generator(
        configuration.architecture,
        n_sources=len(configuration.sources),
        residual_channel=configuration.residual_channel,
    )
    if not is_base:
        base = folders.model_folder(
            study.folder(_base_of(row.seed)), study.dataset, "regression", CONFIGURATION
        )
        load_pretrained(generator, folders.fold_folder(base, "all") / folders.FINAL)
    keep_plan(model, plan, study.prepared / folders.FINGERPRINT_JSON)
    codec.save(described, fold / folders.RUN_JSON)
    training = Batches(cases, configuration, seed=row.seed, augment=True)
    validation = Batches(cases, configuration, seed=row.seed, augment=False)
    fit(generator, objective, training, validation, recipe, fold, device)
    figures = judge_model(study, model)
    epochs = sorted(record["seconds"] / recipe.iterations for record in log.read(fold))
    figures["seconds_a_step"] = epochs[len(epochs) // 2]  # the median epoch, validation included
    figures["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    codec.save({"row": row, "steps": steps, "figures": figures}, study.folder(name) / "row.json")


def _fine_tuning(options: dict) -> dict:
    """The drift begins at once: its norms are measured in the first steps of the ramp."""
    return {"regression_share": 0.0, "ramp_share": 0.1, "adapt_drift": False} | options


def _base_of(seed: int) -> str:
    return BASE if seed == 0 else f"{BASE}_seed{seed}"


def make_encoder(
    name: str, study: Study, cases: Sequence, recipe: Recipe, device: torch.device
) -> nn.Module:
    """The embedded encoder, the random control, or one with GroupNorm, moving or frozen."""
    configuration = study.plan.configurations[CONFIGURATION]
    if name in ("self", "random"):
        long = dataclasses.replace(recipe, epochs=40, iterations=50)  # 400 steps of its own
        return prepare_encoder(
            EncoderChoice(name),
            cases,
            configuration,
            fingerprint=None,
            folder=study.home / "encoder",
            recipe=long if name == "self" else recipe,
            device=device,
        )
    file = study.home / "encoder" / f"groupnorm_{recipe.seed}.pt"
    encoder = GroupNormEncoder(encoder_for(configuration.architecture, seed=recipe.seed))
    if file.is_file():
        encoder.load_state_dict(torch.load(file, weights_only=True))
    else:
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
    frozen = Frozen(encoder).to(device)
    if name == "groupnorm_frozen":
        freeze_norms(frozen, target_patches(cases, configuration, recipe.seed, device))
    return frozen


def judge_model(study: Study, model: Path) -> dict[str, float | None]:
    """Means over the test cases of every figure."""
    translator = load_model(model, folds=["all"])
    description = read_description(study.raw / study.dataset)
    raw = study.raw / study.dataset
    subjects, scores = [], {}
    for files in test_cases(raw, description)[0]:
        begin = time.perf_counter()
        prediction = translator.translate_case(files).array[0]
        seconds = time.perf_counter() - begin
        subject = dataclasses.replace(_subject(files, translator), prediction=prediction)
        real, mask = subject.real, subject.mask
        values: Values = score(prediction, real, mask, subject.spacing)
        gain, offset = match_linear(prediction, real, mask)
        matched = score(gain * prediction + offset, real, mask, subject.spacing)
        values |= {"matched_mae": matched["mae"], "seconds_a_volume": seconds}
        scores[files.identifier] = values
        subjects.append(subject)
    figures = {name: values["mean"] for name, values in aggregate_cases(scores).items()}
    others = _Lazily(training_cases(raw, description)[0], translator)
    for kind in ("self", "groupnorm"):
        judge = make_judge(others, kind=kind, seed=77)
        verdict = give_verdict(judge, subjects, others)
        figures[f"frechet_{kind}"] = verdict.prediction.frechet.value
        figures[f"kernel_{kind}"] = verdict.prediction.kernel.value
        if verdict.floor is not None:
            figures[f"floor_{kind}"] = verdict.floor.frechet.value
        figures[f"blurred_{kind}"] = verdict.ceiling.frechet.value
        if kind == "self":
            again = give_verdict(judge, subjects, others, match=True)
            figures["frechet_matched"] = again.prediction.frechet.value
    return figures


class _Lazily(Sequence):
    """Subjects read from their files one at a time."""

    def __init__(self, cases: Sequence[CaseFiles], translator) -> None:  # noqa: ANN001
        self.cases, self.translator = cases, translator

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index):  # noqa: ANN001, ANN204
        return _subject(self.cases[index], self.translator)

    def __iter__(self) -> Iterator[Subject]:
        return (self[i] for i in range(len(self)))


def _subject(files: CaseFiles, translator) -> Subject:  # noqa: ANN001
    """The real image; mask: the body, and where the target is measured at all."""
    from gdmnet.arrays.body import body_mask

    assert files.target is not None
    volume = read_volume(files.target)
    schemes = [source.scheme == "ct" for source in translator.configuration.sources]
    sources = read_channels(files.sources)
    if files.mask is not None:
        mask = read_volume(files.mask).array[0] > 0
    else:
        mask = body_mask(sources.array, sources.geometry.spacing, schemes)[0] > 0
    return Subject(files.identifier, volume.array[0], mask, volume.geometry.spacing)


def write_table(study: Study) -> None:
    """STUDY/table.md from all finished rows."""
    order = {name: place for place, name in enumerate([BASE, *rows()])}
    found = {
        path.parent.name: json.loads(path.read_text())
        for path in study.home.glob("rows/*/row.json")
    }
    titles = [title for _, title in COLUMNS]
    lines = [
        f"| {study.dataset}, {study.base_steps} + {study.steps} steps | {' | '.join(titles)} |",
        "|" + "---|" * (len(titles) + 1),
    ]
    for name in sorted(found, key=lambda n: order.get(n, len(order))):
        figures = found[name]["figures"]
        cells = [_number(figures.get(key)) for key, _ in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    any_row = next(iter(found.values()))["figures"]
    floors = ", ".join(
        f"{kind}: floor {_number(any_row.get(f'floor_{kind}'))}, real images blurred by one voxel"
        f" {_number(any_row.get(f'blurred_{kind}'))}"
        for kind in ("self", "groupnorm")
    )
    lines += ["", f"Frechet distance, {floors}."]
    codec.write_text(study.home / "table.md", "\n".join(lines) + "\n")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


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
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    every = rows()
    if args.list:
        print("\n".join(every))
        return
    dataset = folders.resolve_dataset(args.dataset, args.raw)
    study = Study(dataset, args.raw, args.home, args.base_steps, args.steps, args.learning_rate)
    chosen = args.rows or list(every)
    if args.here:
        (name,) = chosen
        row = Row("regression", seed=int(name[-1])) if name.startswith(BASE + "_") else None
        run_row(study, name, row or every.get(name) or Row("regression"))
        return
    prepare_dataset(study)
    bases = dict.fromkeys(_base_of(every[name].seed) for name in chosen)
    for name in [*bases, *chosen]:
        if not (study.folder(name) / "row.json").is_file():
            print(f"== {name}", flush=True)
            again = [sys.executable, __file__, *sys.argv[1:]]
            without_rows = again[: again.index("--rows")] if args.rows else again
            subprocess.run([*without_rows, "--here", "--rows", name], check=True)
        write_table(study)


if __name__ == "__main__":
    main()
