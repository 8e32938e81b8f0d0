"""What predictions cost: seconds, calls of the network and memory of every volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gdmnet import codec
from gdmnet.data.case import CaseFiles
from gdmnet.errors import DatasetError
from gdmnet.inference.inputs import output_name
from gdmnet.inference.predict import predict_folder
from gdmnet.inference.record import Predictions
from gdmnet.inference.translator import Translator
from gdmnet.networks.unet import CountCalls

COSTS_JSON = "costs.json"
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux only


@dataclass(frozen=True)
class CaseCosts:
    """One volume; costs.json holds those of a folder by case.

    Attributes:
        seconds: from prepared source to written file.
        calls: of the network, all windows and folds.
        peak_mb: of the device's memory on a GPU, else of the whole process, in 2^20 bytes; None
            where the system does not say.
        parameters: of one fold's network.
    """

    seconds: float
    calls: int
    peak_mb: float | None
    parameters: int


def read_costs(folder: Path) -> dict[str, CaseCosts]:
    """Case -> what its prediction in a folder cost.

    Raises:
        PlanError: costs.json is damaged.
    """
    path = folder / COSTS_JSON
    return codec.load(dict[str, CaseCosts], path) if path.is_file() else {}


def predict_with_costs(translator: Translator, cases: Sequence[CaseFiles], output: Path) -> None:
    """Predict cases one after the other and keep what each of them cost.

    Predictions whose costs are known are kept; others are made anew, so that a killed run can be
    continued.

    Args:
        translator: of `load_model`.
        cases: to predict.
        output: folder of the predictions, of costs.json and predictions.json.

    Raises:
        DatasetError: a case cannot be predicted.
        OutputError: the folder cannot be written, or holds another model's predictions.
    """
    costs = read_costs(output)
    for case in cases:
        path = output / output_name(case, translator.plan)
        if not (path.exists() and case.identifier in costs):
            path.unlink(missing_ok=True)
            costs[case.identifier] = _predict(translator, case, output)
            codec.save(costs, output / COSTS_JSON)


def _predict(translator: Translator, case: CaseFiles, output: Path) -> CaseCosts:
    card, network = translator.card, translator.network
    device = torch.device(card.device)
    is_measurable = _forget_peak(device)
    with CountCalls(network) as calls:
        outcome = predict_folder(translator, [case], output)
    result = codec.load(Predictions, outcome.record).cases[case.identifier]
    if outcome.failed or result.seconds is None:
        raise DatasetError(
            f"{output}: case {case.identifier} could not be predicted: {result.error}"
        )
    peak = _peak_mb(device) if is_measurable else None
    n_parameters = sum(weight.numel() for weight in network.parameters())
    return CaseCosts(result.seconds, calls.count, peak, n_parameters // len(card.checkpoints))


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
