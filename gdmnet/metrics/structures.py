"""Dice and HD95 of segmented structures: is the anatomy of a prediction where it should be?

Label maps are integers (z, y, x) on one grid, 0 is background.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.geometry import Spacing
from gdmnet.metrics.statistics import Values


def score_structures(prediction: NDArray, reference: NDArray, spacing: Spacing) -> Values:
    """Dice and HD95 of every structure of the reference, and their means over these structures.

    A structure that the prediction lacks has Dice 0 and the volume's diagonal as HD95, the
    farthest that anything can be off: leaving it out would reward losing it. A structure that only
    the prediction has belongs to no mean and is counted. The spacing is in mm (z, y, x).

    Returns:
        dice and hd95 (mm), None where the reference has no structure; n_structures,
        n_structures_lost and n_structures_invented; then dice_<label> and hd95_<label>.
    """
    wanted, there = (_boxes(labels) for labels in (reference, prediction))
    flat = tuple(size == 1 for size in reference.shape)
    dices: dict[int, float] = {}
    distances: dict[int, float] = {}
    for label, box in wanted.items():
        if label not in there:
            dices[label] = 0.0
            distances[label] = float(np.linalg.norm(np.array(reference.shape) * spacing))
            continue
        pairs = zip(box, there[label], strict=True)
        both = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)
        guess, truth = prediction[both] == label, reference[both] == label
        dices[label] = dice(guess, truth)
        distances[label] = hd95(guess, truth, spacing, flat=flat)
    return {
        "dice": _mean(dices),
        "hd95": _mean(distances),
        "n_structures": len(wanted),
        "n_structures_lost": len(wanted.keys() - there.keys()),
        "n_structures_invented": len(there.keys() - wanted.keys()),
        **{f"dice_{label}": value for label, value in dices.items()},
        **{f"hd95_{label}": value for label, value in distances.items()},
    }


def dice(prediction: NDArray, reference: NDArray) -> float:
    """2 |P and R| / (|P| + |R|) of two masks that are not both empty."""
    common = np.count_nonzero(prediction & reference)
    return float(2 * common / (np.count_nonzero(prediction) + np.count_nonzero(reference)))


def hd95(
    prediction: NDArray,
    reference: NDArray,
    spacing: Spacing,
    *,
    flat: tuple[bool, ...] = (False, False, False),
) -> float:
    """The 95th percentile Hausdorff distance in mm of two masks, bool (z, y, x), not empty.

    It is the larger of the two directions. A surface is the voxels of a mask that have a face in
    common with what is not in it, or with the end of the array, but for `flat` axes along which the
    image has a single voxel. Distances are exact Euclidean ones between voxel centres.
    """
    guess, truth = _surface(prediction, flat), _surface(reference, flat)
    return max(_directed(guess, truth, spacing), _directed(truth, guess, spacing))


def _directed(start: NDArray, goal: NDArray, spacing: Spacing) -> float:
    distances = ndimage.distance_transform_edt(~goal, sampling=spacing)
    return float(np.percentile(distances[start], 95))


def _surface(mask: NDArray, flat: tuple[bool, ...]) -> NDArray:
    neighbours = ndimage.generate_binary_structure(3, 1)
    for axis in np.flatnonzero(flat):
        neighbours &= np.moveaxis(np.array([[[False]], [[True]], [[False]]]), 0, axis)
    return mask & ~ndimage.binary_erosion(mask, neighbours)


def _boxes(labels: NDArray) -> dict[int, tuple[slice, ...]]:
    boxes = enumerate(ndimage.find_objects(labels), start=1)
    return {label: box for label, box in boxes if box is not None}


def _mean(values: dict[int, float]) -> float | None:
    return sum(values.values()) / len(values) if values else None
