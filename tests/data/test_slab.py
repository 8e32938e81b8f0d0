from __future__ import annotations

import numpy as np
import pytest

from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.slab import central_slab, write_slab
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.geometry import Geometry, lps_frame, nearest_lps

SHAPE = (9, 4, 5)
# an oblique direction, and one whose stored axes are permuted and flipped against LPS
DIRECTIONS = (
    (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0),
    (0.0, 1.0, 0.0, 0.0, 0.0, -1.0, -1.0, 0.0, 0.0),
    (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
)


def volume_of(direction, shape=SHAPE):
    axes, flips = nearest_lps(direction)
    geometry = Geometry(shape, (3.0, 1.0, 2.0), (5.0, -7.0, 11.0), direction, axes, flips)
    return Volume(np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape), geometry)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("n", [1, 4, 5])
def test_the_slab_is_the_middle_and_stays_where_it_was(direction, n):
    volume = volume_of(direction)
    slab = central_slab(volume, n)
    first = (SHAPE[0] - n) // 2
    assert np.array_equal(slab.array, volume.array[:, first : first + n])
    whole_origin, frame = lps_frame(volume.geometry)
    origin, slab_frame = lps_frame(slab.geometry)
    assert np.allclose(origin, whole_origin + frame[:, 2] * 3.0 * first)
    assert np.allclose(frame, slab_frame)


def test_a_thin_volume_is_its_own_slab():
    volume = volume_of(DIRECTIONS[0])
    slab = central_slab(volume, 50)
    assert np.array_equal(slab.array, volume.array)
    assert slab.geometry == volume.geometry


def test_a_case_is_cut_alike_in_all_its_files_and_once(tmp_path):
    volume = volume_of(DIRECTIONS[1])
    names = ("a_0000.nii.gz", "a_0001.nii.gz", "target/a.nii.gz", "mask/a.nii.gz")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_volume(tmp_path / name, volume)
    paths = [tmp_path / name for name in names]
    case = CaseFiles("a", tuple(paths[:2]), paths[2], paths[3])
    slab = write_slab(case, 4, tmp_path / "slab")
    cut = [*slab.sources, slab.target, slab.mask]
    assert [path.parent.name for path in cut] == ["images", "images", "targets", "masks"]
    assert all(
        np.array_equal(read_volume(path).array, central_slab(volume, 4).array) for path in cut
    )
    before = [path.stat().st_mtime_ns for path in cut]
    assert write_slab(case, 4, tmp_path / "slab") == slab
    assert [path.stat().st_mtime_ns for path in cut] == before
