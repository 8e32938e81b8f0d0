"""What predictions cost: seconds, calls of the network and memory of every volume."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gdmnet import codec
from gdmnet.data.case import CaseFiles
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry
from gdmnet.inference.inputs import output_name
from gdmnet.inference.predict import predict_folder
from gdmnet.inference.record import Predictions
from gdmnet.inference.sliding import windows
from gdmnet.inference.translator import Translator
from gdmnet.networks.calls import CountCalls
from gdmnet.plan import Configuration

COSTS_JSON = "costs.json"
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux only


@dataclass(frozen=True)
class CaseCosts:
    """One volume: seconds from prepared source to written file, network calls, peak memory.

    `peak_mb` is that of the device's memory on a GPU, else of the whole process; in 2^20 bytes,
    None where the system does not say.
    """

    seconds: float
    calls: int
    peak_mb: float | None


@dataclass(frozen=True)
class Costs:
    """The contents of costs.json.

    Attributes:
        parameters: of one fold's network.
        calls_a_window: evaluations of one fold's network.
        folds: that are combined.
        steps: of the sampler, None without one.
        device: that computed.
        precision: it computed in.
        cases: identifier -> what it cost.
    """

    parameters: int
    calls_a_window: int
    folds: int
    steps: int | None
    device: str
    precision: str
    cases: dict[str, CaseCosts] = field(default_factory=dict)


def read_costs(folder: Path) -> Costs | None:
    """The costs of a folder of predictions; None where nothing was predicted yet.

    Raises:
        PlanError: costs.json is damaged.
    """
    path = folder / COSTS_JSON
    return codec.load(Costs, path) if path.is_file() else None


def predict_with_costs(translator: Translator, cases: Sequence[CaseFiles], output: Path) -> Costs:
    """Predict cases one after the other and keep what each of them cost.

    Predictions whose costs are known are kept; others are made anew, so that a killed run can be
    taken up.

    Args:
        translator: of `load_model`.
        cases: to predict.
        output: folder of the predictions, of costs.json and predictions.json.

    Raises:
        DatasetError: a case cannot be predicted.
        OutputError: the folder cannot be written, or holds another model's predictions.
    """
    costs = read_costs(output) or _nothing_yet(translator)
    for case in cases:
        path = output / output_name(case, translator.plan)
        if path.exists() and case.identifier in costs.cases:
            continue
        path.unlink(missing_ok=True)
        found = _predict(translator, case, output)
        costs = dataclasses.replace(costs, cases={**costs.cases, case.identifier: found})
        codec.save(costs, output / COSTS_JSON)
    return costs


def n_windows(geometry: Geometry, configuration: Configuration, step_size: float) -> int:
    """Windows that cover a volume, at most: what lies outside the body is not cropped yet."""
    fine, coarse = geometry.spacing, configuration.spacing
    sizes = [
        max(patch, round(n * own / planned))
        for patch, n, own, planned in zip(
            configuration.patch_size, geometry.shape, fine, coarse, strict=True
        )
    ]
    shape = (sizes[0], sizes[1], sizes[2])
    return sum(1 for _ in windows(shape, configuration.patch_size, step_size))


def _nothing_yet(translator: Translator) -> Costs:
    card = translator.card
    n_folds = len(card.checkpoints)
    n_parameters = sum(weight.numel() for weight in translator.network.parameters())
    return Costs(
        parameters=n_parameters // n_folds,
        calls_a_window=card.network_calls,
        folds=n_folds,
        steps=card.settings.steps,
        device=card.device,
        precision=card.precision,
    )


def _predict(translator: Translator, case: CaseFiles, output: Path) -> CaseCosts:
    device = torch.device(translator.card.device)
    is_measurable = _forget_peak(device)
    with CountCalls(translator.network) as calls:
        outcome = predict_folder(translator, [case], output)
    result = codec.load(Predictions, outcome.record).cases[case.identifier]
    if outcome.failed or result.seconds is None:
        raise DatasetError(
            f"{output}: case {case.identifier} could not be predicted: {result.error}"
        )
    peak = _peak_mb(device) if is_measurable else None
    return CaseCosts(result.seconds, calls.count, peak)


def _forget_peak(device: torch.device) -> bool:
    """Begin to measure the peak anew; False where the system cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text("5", encoding="ascii")  # proc(5): the peak becomes what is used now
    except OSError:
        return False
    return True


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return round(int(peak) / 2**10, 1)
