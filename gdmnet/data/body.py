"""Where a case's target counts, and where its patient is: as given, else found in the sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdmnet.arrays.body import body_mask, region_of
from gdmnet.data.case import Volume
from gdmnet.errors import DatasetError
from gdmnet.plan import Region

GIVEN = "given"  # the rule of a mask that came with the case


@dataclass(frozen=True)
class Body:
    """Masks on the sources' grid, uint8 (z, y, x).

    Attributes:
        counted: where the target counts.
        rule: that made it.
        patient: what intensities, the bias field and centres of patches are taken from.
    """

    counted: NDArray
    rule: str
    patient: NDArray


def find_body(
    sources: Volume, schemes: Sequence[str], region: Region, mask: Volume | None, *, case: str
) -> Body:
    """The body of a case.

    Args:
        sources: (c, z, y, x) in file units.
        schemes: the normalisation of each channel; "ct" is in HU.
        region: where the target counts; a given mask decides in its place.
        mask: (1, z, y, x), above 0 inside the body; None finds it in the sources.
        case: named in complaints.

    Raises:
        DatasetError: the mask is empty.
    """
    if mask is not None:
        given = (mask.array[0] > 0).astype(np.uint8)
        if not given.any():
            raise DatasetError(f"case {case}: the mask is empty; mark the body, or remove it")
        return Body(given, GIVEN, given)
    spacing = sources.geometry.spacing
    patient, rule = body_mask(sources.array, spacing, [scheme == "ct" for scheme in schemes])
    if region == "body":
        return Body(patient, rule, patient)
    return Body(region_of(region, patient, spacing), region, patient)
