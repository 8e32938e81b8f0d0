"""Cost of gdmnet against nnU-Net: preprocessing, training steps, prediction, start-up, disk.

nnU-Net lives in an environment of its own, on a CPU without torchvision and timm, which
`pip install nnunetv2` would bring in CUDA builds that do not fit a CPU's torch. Nothing here
imports them: only `nnUNetv2_train` looks through all trainers, and this script calls the trainer.

    python3.11 -m venv nnunet-venv
    nnunet-venv/bin/pip install torch==2.13.0
    nnunet-venv/bin/pip install --no-deps nnunetv2==2.8.1 dynamic-network-architectures==0.4.4
    nnunet-venv/bin/pip install acvl-utils batchgenerators batchgeneratorsv2 blosc2 SimpleITK \
        nibabel tifffile imagecodecs scikit-image scikit-learn pandas matplotlib seaborn yacs \
        einops requests tqdm
    python documentation/benchmarks/rivals.py RAW/Dataset501_BrainT1toT2 SCRATCH \
        --cases brain_04 brain_06 brain_09 brain_10 --nnunet nnunet-venv/bin/python

Both get the same images; since nnU-Net segments, its label is the target above its median. Both
work with one thread, each in a process of its own, in turn; a ratio is the median over rounds of
nnU-Net's cost divided by gdmnet's beside it: above 1 gdmnet is cheaper. Spacing, patch and batch
are those of gdmnet's cpu plan. Without --nnunet gdmnet is measured alone.

The script starts itself as `rivals.py serve gdmnet|nnunet SCRATCH` in either environment: nnU-Net's
side needs nothing of gdmnet.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

Cost = dict[str, float]
"""`cpu` and `wall` in seconds; `peak`, resident MiB of the whole process."""
GDMNET, NNUNET = "gdmnet", "nnunet"
CONFIGURATION, DATASET_JSON = "3d_fullres", "dataset.json"
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "nnUNet_def_n_proc": "1",  # also the threads that it gives torch in its export
    "nnUNet_n_proc_DA": "1",
}
PHASES = ("commands", "preparing", "batching", "training", "predicting")
N_BATCHES = 16
FILLING = 4  # steps in which gdm's banks of past rows fill
MIN_EDGE = 4  # voxels of nnU-Net's coarsest maps: ExperimentPlanner.UNet_featuremap_min_edge_length
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
EQUAL, OWN = "equal", "own"  # configurations that are added to nnU-Net's plan
SHARED = ("spacing", "patch_size", "batch_size")
RUNS = {  # nnU-Net's configuration, and gdmnet's objective
    "networks of equal size, Dice + CE and regression": (EQUAL, "regression"),
    "own networks and losses, Dice + CE at all depths and gdm": (OWN, "gdm"),
}
# The drift acts from the first step on: what a step costs in the last 80 % of a training.
OPTIONS: dict[str, dict[str, Any]] = {"regression": {}, "gdm": {"regression_share": 0.0}}
HEAD = (
    "| | nnU-Net: CPU s (wall) | gdmnet: CPU s (wall) | ratio CPU | ratio wall"
    " | peak MiB, nnU-Net / gdmnet |\n|---|---|---|---|---|---|"
)


def cost_of(work: Callable[[], Any]) -> tuple[Any, Cost]:
    """What a function gives, and what it cost, all threads of this process counted (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (man 5 proc)
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    cost = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return result, cost | {"peak": peak / 1024}


def cost_of_command(words: Sequence[str | Path], log: Path) -> Cost:
    """What a command and its processes cost; a peak, of the largest, is at least this script's."""
    begin = time.perf_counter()
    with log.open("a") as handle:
        process = subprocess.Popen([*map(str, words)], stdout=handle, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{words} failed; see {log}")
    cpu, wall = usage.ru_utime + usage.ru_stime, time.perf_counter() - begin
    return {"cpu": cpu, "wall": wall, "peak": usage.ru_maxrss / 1024}


def mebibytes(folder: Path) -> float:
    """Of all files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**20


def calls_of(network: Any) -> list[None]:  # noqa: ANN401
    """A list that gets an entry with every call from now on."""
    calls: list[None] = []
    network.register_forward_hook(lambda *_: calls.append(None))
    return calls


class Side:
    """One tool's process, which does what it is asked for: a JSON object a line, both ways."""

    def __init__(self, python: Path, tool: str, home: Path) -> None:
        self.log = home / f"{tool}.log"
        self.process = subprocess.Popen(
            [str(python), __file__, "serve", tool, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("a"),
            text=True,
        )

    def ask(self, task: str, **arguments: object) -> Any:  # noqa: ANN401
        """The answer to one request."""
        self.process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{task} {arguments} failed; see {self.log}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def serve(tool: str, home: Path) -> None:
    """Answer requests until the input ends; what tools print goes to the log, as errors do."""
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side = {GDMNET: Gdmnet, NNUNET: NnUNet}[tool](home / tool)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(side, request.pop("task"))(**request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Gdmnet:
    """gdmnet's tasks, on what gdm_plan_and_preprocess made in `home`."""

    def __init__(self, home: Path) -> None:
        from step_cost import make_step

        from gdmnet import codec, folders
        from gdmnet.data.raw import read_description, training_cases
        from gdmnet.data.store import open_case
        from gdmnet.plan import Plan
        from gdmnet.training.batches import Batches

        (raw,) = (home / "raw").glob("Dataset*")
        self.aside = home / "aside"
        self.aside.mkdir(exist_ok=True)
        cases = training_cases(raw, read_description(raw))[0]
        self.files = {files.identifier: files for files in cases}
        prepared = home / "preprocessed" / raw.name
        self.plan = codec.load(Plan, prepared / folders.PLAN_JSON)
        self.configuration = self.plan.configuration(CONFIGURATION)
        stored = [open_case(prepared / CONFIGURATION, name) for name in self.files]
        self.batches = Batches(stored, self.configuration, seed=0, augment=True)
        self.kept = self.batches.batch(0, 0)
        self.steps = {
            name: make_step(self.configuration, self.kept, name, options)
            for name, options in OPTIONS.items()
        }

    def describe(self) -> dict[str, Any]:
        """What the other side must have equal, and the network's size."""
        from gdmnet import codec

        described = codec.encode(self.configuration)
        n_parameters = sum(p.numel() for p in self._network().parameters())
        equal = {key: described[key] for key in (*SHARED, "architecture")}
        return equal | {"n_parameters": n_parameters}

    def prepare(self, case: str) -> Cost:
        """Preprocess one case into an empty folder; with the MiB that it takes there."""
        from gdmnet.preprocessing import prepare_and_store

        shutil.rmtree(self.aside / case, ignore_errors=True)
        files, configuration = self.files[case], self.configuration
        _, cost = cost_of(lambda: prepare_and_store(files, configuration, self.aside))
        return cost | {"disk": mebibytes(self.aside / case)}

    def batch(self, first: int) -> Cost:
        """Read and augment batches in this process, from the first on."""
        numbers = range(first, first + N_BATCHES)
        return cost_of(lambda: [self.batches.batch(0, number) for number in numbers])[1]

    def step(self, run: str, precision: str) -> Cost:
        """One step on a batch that is in memory already: forward, backward, optimiser, average."""
        _, objective = RUNS[run]
        return cost_of(lambda: self.steps[objective](precision))[1]

    def predict(self, image: str, precision: str) -> dict[str, Cost]:
        """One volume from file to file with fresh weights, in parts."""
        from gdmnet.data.case import CaseFiles
        from gdmnet.data.volume import write_volume
        from gdmnet.inference.ensemble import Ensemble
        from gdmnet.inference.translator import Translator
        from gdmnet.models.card import ModelCard
        from gdmnet.preprocessing import prepare

        card = ModelCard(str(self.aside), "gdm", CONFIGURATION, {}, "cpu", precision)
        members = [self._network()]
        network = Ensemble(members, self.configuration, card).eval().requires_grad_(False)
        translator = Translator(self.plan, self.configuration, card, network)
        files, place = CaseFiles("case", (Path(image),)), self.aside / "prediction.nii.gz"
        calls = calls_of(network)
        case, before = cost_of(lambda: prepare(files, self.configuration))
        estimate, windows = cost_of(lambda: translator.predict(case))
        _, after = cost_of(
            lambda: write_volume(
                place, translator.restore(estimate, case), integer=self.plan.integer_output
            )
        )
        return {"prepare": before, "windows": windows | {"calls": len(calls)}, "export": after}

    def _network(self) -> Any:  # noqa: ANN401
        import torch

        from gdmnet.objectives.base import Inputs
        from gdmnet.objectives.build import generator_of

        torch.manual_seed(0)
        return generator_of(self.configuration, Inputs())


class NnUNet:
    """nnU-Net's tasks, on what nnUNetv2_plan_and_preprocess made; only its own classes compute."""

    def __init__(self, home: Path) -> None:
        os.environ.update(nnUNet_n_proc_DA="0")  # batches in this process, as gdmnet's on a CPU
        (self.raw,) = (home / "raw").glob("Dataset*")
        self.aside = home / "aside"
        self.aside.mkdir(exist_ok=True)
        self.dataset = json.loads((self.raw / DATASET_JSON).read_text())
        plan = home / "preprocessed" / self.raw.name / "nnUNetPlans.json"
        self.plans = json.loads(plan.read_text())
        self.trainers: dict[str, Any] = {}
        self.loaders: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}  # a batch of each

    def adopt(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Add two configurations with the other side's spacing, patch and batch.

        `equal` has its stages, features, blocks and strides; `own` is the network that nnU-Net's
        planner gives a patch of this size, with deep supervision. Gives their parameters, and
        what the planner chose on this dataset by itself.
        """
        import numpy as np
        from nnunetv2.experiment_planning.experiment_planners import network_topology

        planned = self.plans["configurations"][CONFIGURATION]
        equal, own = (copy.deepcopy(planned["architecture"]) for _ in range(2))
        sizes, n_stages = wanted["architecture"], len(wanted["architecture"]["features"])
        equal["network_class_name"] = RESIDUAL
        del equal["arch_kwargs"]["n_conv_per_stage"]
        equal["arch_kwargs"] |= {
            "n_stages": n_stages,
            "features_per_stage": sizes["features"],
            "kernel_sizes": sizes["kernels"],
            "strides": sizes["strides"],
            "n_blocks_per_stage": sizes["blocks"],
            "n_conv_per_stage_decoder": [1] * (n_stages - 1),
        }
        _, strides, kernels, _, _ = network_topology.get_pool_and_conv_props(
            wanted["spacing"], wanted["patch_size"], MIN_EDGE, 999999
        )
        kwargs, depth = own["arch_kwargs"], len(strides)
        for name in ("features_per_stage", "n_conv_per_stage", "n_conv_per_stage_decoder"):
            kwargs[name] = kwargs[name][: depth - name.endswith("decoder")]
        kwargs |= {"strides": np.array(strides).tolist(), "n_stages": depth}
        kwargs |= {"kernel_sizes": np.array(kernels).tolist()}
        found = {}
        for name, architecture in ((EQUAL, equal), (OWN, own)):
            added = {"inherits_from": CONFIGURATION, "architecture": architecture}
            self.plans["configurations"][name] = added | {key: wanted[key] for key in SHARED}
            network = self._start(name).network
            found[name] = sum(p.numel() for p in network.parameters())
        return found | {"planned": {key: planned[key] for key in SHARED}}

    def prepare(self, case: str) -> Cost:
        """Preprocess one case into an empty folder; with the MiB that it takes there."""
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

        shutil.rmtree(self.aside)
        self.aside.mkdir()
        trainer, ending = self.trainers[EQUAL], self.dataset["file_ending"]
        preprocessor = DefaultPreprocessor(verbose=False)
        work = (
            str(self.aside / case),
            [str(self.raw / "imagesTr" / f"{case}_0000{ending}")],
            str(self.raw / "labelsTr" / f"{case}{ending}"),
            trainer.plans_manager,
            trainer.configuration_manager,
            self.dataset,
        )
        _, cost = cost_of(lambda: preprocessor.run_case_save(*work))
        return cost | {"disk": mebibytes(self.aside)}

    def batch(self, first: int) -> Cost:
        """Read and augment batches in this process; nnU-Net draws them as they come."""
        return cost_of(lambda: [next(self.loaders[EQUAL]) for _ in range(N_BATCHES)])[1]

    def step(self, run: str, precision: str) -> Cost:
        """The trainer's own step on a batch that is in memory already, fp32 as always on CPUs."""
        configuration, _ = RUNS[run]
        trainer, batch = self.trainers[configuration], self.kept[configuration]
        trainer.network.train()
        return cost_of(lambda: trainer.train_step(batch))[1]

    def predict(self, image: str, precision: str) -> dict[str, Cost]:
        """One volume from file to file with fresh weights, no mirroring, in parts."""
        import torch
        from nnunetv2.inference.export_prediction import export_prediction_from_logits
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

        trainer, place = self.trainers[EQUAL], str(self.aside / "prediction")
        manager, configuration = trainer.plans_manager, trainer.configuration_manager
        predictor = nnUNetPredictor(
            tile_step_size=0.5,
            use_mirroring=False,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        predictor.manual_initialization(
            trainer.network, manager, configuration, None, self.dataset, "nnUNetTrainer", None
        )
        calls = calls_of(trainer.network)
        preprocessor = DefaultPreprocessor(verbose=False)
        (data, _, properties), before = cost_of(
            lambda: preprocessor.run_case([image], None, manager, configuration, self.dataset)
        )
        logits, windows = cost_of(
            lambda: predictor.predict_sliding_window_return_logits(torch.from_numpy(data))
        )
        work = (logits, properties, configuration, manager, self.dataset, place)
        _, after = cost_of(lambda: export_prediction_from_logits(*work))
        return {"prepare": before, "windows": windows | {"calls": len(calls)}, "export": after}

    def _start(self, name: str) -> Any:  # noqa: ANN401
        import torch
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        torch.manual_seed(0)
        plans = copy.deepcopy(self.plans) | {"continue_training": False}
        trainer = nnUNetTrainer(plans, name, "all", self.dataset, torch.device("cpu"))
        trainer.enable_deep_supervision = name == OWN
        trainer.initialize()
        self.trainers[name] = trainer
        self.loaders[name], _ = trainer.get_dataloaders()
        self.kept[name] = next(self.loaders[name])
        return trainer


class Measurement:
    """What both tools did, or gdmnet alone, and their costs, an entry a round."""

    def __init__(self, n_rounds: int) -> None:
        self.n_rounds = n_rounds
        self.sides: dict[str, Side] = {}
        self.costs: dict[str, dict[str, list[Cost]]] = {}

    def add(self, what: str, tool: str, cost: Cost) -> None:
        """One thing that one tool has done."""
        self.costs.setdefault(what, {}).setdefault(tool, []).append(cost)

    def each(self, what: str, task: str, *, counts: bool = True, **arguments: object) -> None:
        """All tools do one thing, one after the other; what does not count warms them up."""
        for tool, side in self.sides.items():
            cost = side.ask(task, **arguments)
            if counts:
                self.add(what, tool, cost)

    def lines(self) -> Iterator[str]:
        """Rows of the table."""
        for what, costs in self.costs.items():
            keys = costs[GDMNET][0]
            cells = {key: compared(costs.get(NNUNET, []), costs[GDMNET], key) for key in keys}
            (theirs, ours, ratio), wall, peak = (cells[key] for key in ("cpu", "wall", "peak"))
            if "calls" in cells:
                what += f": {cells['calls'][0]} and {cells['calls'][1]}"
            seconds = f"{theirs} ({wall[0]}) | {ours} ({wall[1]}) | {ratio} | {wall[2]}"
            yield f"| {what} | {seconds} | {peak[0]} / {peak[1]} |"
            if "disk" in cells:
                yield f"| - on disk [MiB] | {' | '.join(cells['disk'])} | | |"

    def preparing(self, cases: list[str]) -> None:
        """One case in a process that is warm, and what it takes on disk."""
        what = "preprocess one case"
        self.each(what, "prepare", case=cases[0], counts=False)
        for case in cases * self.n_rounds:
            self.each(what, "prepare", case=case)

    def batching(self) -> None:
        """Many batches a time, since rare augmentations cost the most."""
        for i in range(self.n_rounds):
            self.each(f"{N_BATCHES} batches, read and augmented", "batch", first=i * N_BATCHES)

    def training(self) -> None:
        """Steps on a batch that is in memory."""
        for i in range(-FILLING, self.n_rounds):
            for run, precision in product(RUNS, precisions()):
                how = {"run": run, "precision": precision}
                self.each(f"training step, {run}, {precision}", "step", counts=i >= 0, **how)

    def predicting(self, image: Path) -> None:
        """One volume: equal networks, patch and step size, no mirroring; the whole, its parts."""
        rounds = range(self.n_rounds // 2 or 1)
        for _, precision, tool in product(rounds, precisions(), self.sides):
            parts = self.sides[tool].ask("predict", image=str(image), precision=precision)
            self.add(f"predict, file to file, {precision}", tool, together(parts))
            for part, cost in parts.items():
                self.add(f"- {part}, {precision}", tool, cost)


def precisions() -> tuple[str, ...]:
    """Of gdmnet: bf16 where this CPU has it; nnU-Net computes in fp32 on every CPU."""
    from gdmnet.models.precision import cpu_has_bf16

    return ("fp32", "bf16") if cpu_has_bf16() else ("fp32",)


def together(parts: dict[str, Cost]) -> Cost:
    """The cost of one thing after the other."""
    whole = {key: sum(cost[key] for cost in parts.values()) for key in ("cpu", "wall")}
    return whole | {"peak": max(cost["peak"] for cost in parts.values())}


def compared(theirs: list[Cost], ours: list[Cost], key: str) -> tuple[str, str, str]:
    """Medians of one figure of both tools, and of their ratio; "-" without nnU-Net."""
    values = [[cost[key] for cost in costs] for costs in (theirs, ours)]
    values.append([one / other for one, other in zip(*values, strict=bool(theirs))])
    first, second, ratio = (f"{median(one):.4g}" if one else "-" for one in values)
    return first, second, ratio


def make_datasets(raw: Path, home: Path, cases: list[str]) -> None:
    """The chosen cases as raw datasets of both tools; image files are linked."""
    import numpy as np
    import SimpleITK as sitk  # noqa: N813

    described = json.loads((raw / DATASET_JSON).read_text()) | {"numTraining": len(cases)}
    ending = described["file_ending"]
    for tool, answers in ((GDMNET, "targetsTr"), (NNUNET, "labelsTr")):
        folder = home / tool / "raw" / raw.name
        (folder / "imagesTr").mkdir(parents=True)
        (folder / answers).mkdir()
        for case in cases:
            for image in raw.glob(f"imagesTr/{case}_????{ending}"):
                (folder / "imagesTr" / image.name).symlink_to(image.resolve())
            target = raw / "targetsTr" / f"{case}{ending}"
            answer = folder / answers / target.name
            if tool == GDMNET:
                answer.symlink_to(target.resolve())
            else:
                volume = sitk.ReadImage(str(target))
                values = sitk.GetArrayFromImage(volume)
                sitk.WriteImage(volume > float(np.median(values[values > 0])), str(answer))
        labels = {"labels": {"background": 0, "bright": 1}} if tool == NNUNET else {}
        (folder / DATASET_JSON).write_text(json.dumps(described | labels))


def run_commands(pythons: dict[str, Path], home: Path, dataset: str, found: Measurement) -> None:
    """Start-up of both prediction commands, and check, fingerprint, plan and preprocessing."""
    log = home / "commands.log"
    one_process = ["-d", dataset[7:10], "-c", CONFIGURATION, "-np", "1"]
    roots = [f"--{name}={home / GDMNET / name}" for name in ("raw", "preprocessed")]
    options = {
        GDMNET: [*one_process, "--preset", "cpu", *roots],
        NNUNET: [*one_process, "-npfp", "1", "--verify_dataset_integrity"],
    }
    for _ in range(found.n_rounds):
        for tool, python in pythons.items():
            cost = cost_of_command([*command_of(tool, python, "predict"), "--help"], log)
            found.add("start-up: `predict --help`", tool, cost)
    for tool, python in pythons.items():
        words = [*command_of(tool, python, "plan_and_preprocess"), *options[tool]]
        what = "check, fingerprint, plan, preprocess: the whole command"
        found.add(what, tool, cost_of_command(words, log))


def command_of(tool: str, python: Path, name: str) -> list[str | Path]:
    """The words that start one of a tool's commands."""
    if tool == NNUNET:
        return [python.parent / f"nnUNetv2_{name}"]
    code = f"import sys; from gdmnet.commands.{name} import main; sys.exit(main())"
    return [python, "-c", code]


def compare(args: argparse.Namespace, home: Path) -> Iterator[str]:
    """The phases asked for, as lines: a table, then what was equal and what each had chosen."""
    pythons = {NNUNET: args.nnunet.absolute()} if args.nnunet else {}
    pythons[GDMNET] = Path(sys.executable)
    found = Measurement(args.rounds)
    if "commands" in args.phases:
        run_commands(pythons, home, args.raw.name, found)
    found.sides = {tool: Side(python, tool, home) for tool, python in pythons.items()}
    equal, planned = found.sides[GDMNET].ask("describe"), None
    if NNUNET in pythons:
        planned = found.sides[NNUNET].ask("adopt", wanted=equal)
    if "preparing" in args.phases:
        found.preparing(args.cases)
    if "batching" in args.phases:
        found.batching()
    if "training" in args.phases:
        found.training()
    if "predicting" in args.phases:
        found.predicting(sorted(args.raw.glob("imagesTs/*"))[0])
    for side in found.sides.values():
        side.close()
    yield from (HEAD, *found.lines())
    yield f"\n{platform.machine()}, {date.today()}; load {os.getloadavg()[0]:.1f}"
    yield f"equal, and gdmnet's parameters: {equal}\nnnU-Net's parameters and own plan: {planned}"


def build_parser() -> argparse.ArgumentParser:
    """Of the measurement; `serve` is for the script alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path, help="folder of one raw dataset of gdmnet")
    parser.add_argument("scratch", type=Path, help="a folder to make")
    parser.add_argument("--cases", nargs="+", required=True, help="of imagesTr, by name")
    parser.add_argument("--nnunet", type=Path, help="the Python of nnU-Net's environment")
    parser.add_argument("--rounds", type=int, default=4, help="of each measurement (4)")
    parser.add_argument(
        "--phases",
        nargs="+",
        choices=PHASES,
        default=PHASES,
        help="those after the first alone work on what an earlier run has left in SCRATCH (all)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Print the table, or be one of the sides."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["serve"]:
        serve(words[1], Path(words[2]))
        return
    parser = build_parser()
    args = parser.parse_args(words)
    home = args.scratch.absolute()
    os.environ.update(VARIABLES)
    for root in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{root}"] = str(home / NNUNET / root)
    if "commands" in args.phases:
        if home.exists():
            parser.error(f"{home} exists; name a new folder")
        make_datasets(args.raw, home, args.cases)
    for line in compare(args, home):
        print(line, flush=True)


if __name__ == "__main__":
    main()
