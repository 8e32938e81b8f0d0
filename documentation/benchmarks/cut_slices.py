"""A dataset of single axial slices, one a case, cut from the middle of a raw dataset's volumes.

    python documentation/benchmarks/cut_slices.py RAW/Dataset501_BrainT1toT2 OUT/Dataset504_Slices

Each slice keeps its thickness, position and direction; nothing is resampled.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import SimpleITK as sitk  # noqa: N813


def main() -> None:
    """Cut every image of the dataset."""
    raw, out = Path(sys.argv[1]), Path(sys.argv[2])
    for source in sorted(raw.glob("*T[rs]/*")):
        image = sitk.ReadImage(str(source))
        middle = image.GetSize()[2] // 2
        path = out / source.relative_to(raw)
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image[:, :, middle : middle + 1], str(path), useCompression=True)
    shutil.copy(raw / "dataset.json", out / "dataset.json")


if __name__ == "__main__":
    main()
