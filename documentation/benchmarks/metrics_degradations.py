"""What each metric sees of noise, blur, a shift and a bias, and whether it equals its slow oracle.

    python documentation/benchmarks/metrics_degradations.py CT.nii.gz [CT.nii.gz ...]

The degradations of every CT are scored in its body, without any network: white noise of 25 HU
(its mean absolute value is 20 HU), a Gaussian blur of one voxel, a shift by one voxel along x, and
20 HU added. The first table holds the means over the scans. A metric's effect is how
far it is from the value of a perfect prediction, per HU of MAE, because the four are not equally
strong: it "sees" what has at least a third of its largest effect, and is "blind" to what has less
than a tenth. The second table holds the largest difference from the slow
implementations that the tests keep, and the processor times of both.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from metrics import oracles  # noqa: E402 (of the tests, not of the package)

from gdmnet.arrays.body import body_mask  # noqa: E402
from gdmnet.data.volume import read_volume  # noqa: E402
from gdmnet.geometry import Spacing  # noqa: E402
from gdmnet.metrics.conventions import CONVENTIONS  # noqa: E402
from gdmnet.metrics.image import mae, psnr  # noqa: E402
from gdmnet.metrics.score import score  # noqa: E402
from gdmnet.metrics.similarity import masked_ssim, ms_ssim  # noqa: E402
from gdmnet.metrics.statistics import Values  # noqa: E402
from gdmnet.metrics.structures import score_structures  # noqa: E402

SEES, BLIND = 1 / 3, 1 / 10
ONE_IS_PERFECT = {"ssim", "ms_ssim", "sharpness", "edge_width", "dice"}


def noise(image: NDArray) -> NDArray:
    return image + np.random.default_rng(0).normal(0, 25, image.shape).astype(np.float32)


def blur(image: NDArray) -> NDArray:
    return gaussian_filter(image, 1.0, mode="nearest")


def shift(image: NDArray) -> NDArray:
    return np.concatenate([image[..., :1], image[..., :-1]], axis=-1)


def bias(image: NDArray) -> NDArray:
    return image + np.float32(20)


DEGRADATIONS = {
    "noise 25 HU": noise,
    "blur 1 voxel": blur,
    "shift 1 voxel": shift,
    "bias +20 HU": bias,
}


def all_metrics(guess: NDArray, truth: NDArray, mask: NDArray, spacing: Spacing) -> Values:
    """gdmnet's own, the challenges' SSIM, the windows, and bone by threshold as a structure."""
    found = score(guess, truth, mask, spacing)
    challenge = score(guess, truth, mask, spacing, convention="synthrad2025")
    found["ssim (synthrad)"] = challenge["ssim"]
    windows = score(guess, truth, mask, spacing, convention="sparse-ct", with_plausibility=False)
    found |= {name: value for name, value in windows.items() if "window" in name}
    bones = [((image > 200) & (mask > 0)).astype(np.int32) for image in (guess, truth)]
    structures = score_structures(*bones, spacing)
    found |= {f"{name} (bone > 200 HU)": structures[name] for name in ("dice", "hd95")}
    del found["data_range"]
    return found


def distance(metric: str, value: float) -> float:
    """How far a value is from that of a perfect prediction."""
    name = metric.split(" ")[0].split("_window")[0]
    if name == "psnr":
        return 10 ** (-value / 20)
    return abs(value - 1) if name in ONE_IS_PERFECT else abs(value)


def effects(metric: str, values: list[float], errors: list[float]) -> tuple[str, str]:
    """What it sees and what it is blind to, from its values and the MAE of each degradation."""
    far = [distance(metric, value) / error for value, error in zip(values, errors, strict=True)]
    share = {
        name: d / max(far) if max(far) else 0.0 for name, d in zip(DEGRADATIONS, far, strict=True)
    }
    seen = [name.split(" ")[0] for name in DEGRADATIONS if share[name] >= SEES]
    blind = [name.split(" ")[0] for name in DEGRADATIONS if share[name] < BLIND]
    return ", ".join(seen) or "-", ", ".join(blind) or "-"


def compare_with_oracles(
    guess: NDArray, truth: NDArray, mask: NDArray, rows: dict[str, list[tuple[float, ...]]]
) -> None:
    """Fast value, slow value and their times, for the four figures of the two challenges."""
    new, old = CONVENTIONS["synthrad2025"].span, CONVENTIONS["synthrad2023"].span
    case = guess, truth, mask
    clipped = [np.clip(image, new.low, new.low + new.width) for image in case[:2]]
    ends = [(span.low, span.low + span.width) for span in (new, old)]
    for name, fast, slow in (
        ("synthrad2025 mae", lambda: mae(*case), lambda: oracles.slow_mae(*case)),
        (
            "synthrad2025 psnr",
            lambda: psnr(*clipped, mask, new.width),
            lambda: oracles.slow_psnr(*case, *ends[0]),
        ),
        (
            "synthrad2025 ms_ssim",
            lambda: ms_ssim(*case, new),
            lambda: oracles.slow_ms_ssim(*case, *ends[0]),
        ),
        (
            "synthrad2023 ssim",
            lambda: masked_ssim(*case, old),
            lambda: oracles.slow_masked_ssim(*case, *ends[1]),
        ),
    ):
        begin = time.process_time()
        first = fast()
        middle = time.process_time()
        second = slow()
        end = time.process_time()
        rows.setdefault(name, []).append((abs(first - second), middle - begin, end - middle))


def main() -> None:
    """Print both tables as Markdown."""
    found = {name: [] for name in DEGRADATIONS}
    against = {}
    for argument in sys.argv[1:]:
        volume = read_volume(Path(argument))
        truth, spacing = volume.array[0], volume.geometry.spacing
        mask, _ = body_mask(volume.array, spacing, [True])
        print(f"{Path(argument).name}: {truth.shape}, spacing {spacing} mm", file=sys.stderr)
        for name, degrade in DEGRADATIONS.items():
            guess = degrade(truth)
            found[name].append(all_metrics(guess, truth, mask, spacing))
            compare_with_oracles(guess, truth, mask, against)
    print("| metric |", " | ".join(DEGRADATIONS), "| sees | blind to |")
    print("|---" * (len(DEGRADATIONS) + 3) + "|")
    means = {
        metric: [float(np.mean([case[metric] for case in cases])) for cases in found.values()]
        for metric in found["bias +20 HU"][0]
    }
    for metric, values in means.items():
        cells = [*(f"{value:.4g}" for value in values), *effects(metric, values, means["mae"])]
        print(f"| `{metric}` |", " | ".join(cells), "|")
    print(
        "\n| figure | largest difference | fast [s] | slow [s] | times faster |\n"
        "|---|---|---|---|---|"
    )
    for name, rows in against.items():
        differences, fast, slow = (np.array(column) for column in zip(*rows, strict=True))
        print(
            f"| {name} | {differences.max():.1e} | {fast.mean():.3f} | {slow.mean():.3f}"
            f" | {slow.sum() / fast.sum():.0f} |"
        )


if __name__ == "__main__":
    main()
