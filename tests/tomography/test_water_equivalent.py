import os

import numpy as np
import pytest

from gdmnet.errors import DatasetError
from gdmnet.tomography.water_equivalent import (
    ELECTRON_DENSITY,
    DensityTable,
    depth_errors,
    read_density_table,
)

SPACING = (3.0, 0.7, 1.1)
ANGLES = (0.0, 37.0, 90.0, 180.0, 270.0)
WATER = DensityTable((-1000.0, 0.0, 1000.0), (0.0, 1.0, 2.0))


def places(shape=(3, 121, 91)):
    """y and x of every pixel in mm, 0 in the middle, and an elliptic body."""
    y, x = (
        (np.arange(n) - (n - 1) / 2) * side for n, side in zip(shape[1:], SPACING[1:], strict=True)
    )
    y, x = np.broadcast_arrays(y[None, :, None], x[None, None, :])
    body = np.broadcast_to((y / 36) ** 2 + (x / 44) ** 2 <= 1, shape)
    return y, x, body


def chords(angle, pitch=0.7):
    """Lengths of the chords of the ellipse with half axes 44 (x) and 36 (y), by its formula."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    width = np.hypot(44 * c, 36 * s)
    t = (np.arange(-400, 401) * pitch)[:, None]
    return 2 * 44 * 36 * np.sqrt(np.clip(width**2 - t**2, 0, None)) / width**2


@pytest.mark.parametrize("angle", ANGLES)
def test_one_percent_of_density_is_one_percent_of_depth(angle):
    *_, body = places()
    reference = np.where(body, 0.0, -1000.0)
    prediction = np.where(body, 10.0, -1000.0)  # 1.01 of water
    found = depth_errors(prediction, reference, body, SPACING, [angle], table=WATER)[angle]
    paths = chords(angle)
    assert found.mean == pytest.approx(0.01 * paths[paths >= 10].mean(), abs=0.02)
    assert found.p95 == pytest.approx(0.01 * np.percentile(paths[paths >= 10], 95), abs=0.02)


@pytest.mark.parametrize(
    ("angle", "depth"), [(0.0, 36 + 7), (180.0, 36 - 7), (90.0, 44 - 11), (270.0, 44 + 11)]
)
def test_the_way_to_a_region_begins_where_the_beam_enters(angle, depth):
    # LPS: y grows to the back, x to the left; at gantry 0 the beam comes from the front.
    shape = (3, 401, 401)
    spacing = (3.0, 0.25, 0.25)
    y, x = np.meshgrid(*2 * [(np.arange(401) - 200) * 0.25], indexing="ij")
    body = np.broadcast_to((np.abs(y) <= 36) & (np.abs(x) <= 44), shape)
    regions = np.zeros(shape, dtype=np.int32)
    regions[1, 200 + 28, 200 + 44] = 4  # 7 mm to the back, 11 mm to the left
    reference, prediction = np.where(body, 0.0, -1000.0), np.where(body, 100.0, -1000.0)
    found = depth_errors(
        prediction, reference, body, spacing, [angle], table=WATER, regions=regions
    )[angle]
    assert found.to_centre == {4: pytest.approx(0.1 * depth, abs=0.1)}


def test_a_slab_of_bone_that_became_soft_tissue_is_so_many_mm_too_shallow():
    y, _, body = places()
    bone = body & (np.abs(y) < 7.0)
    reference = np.where(bone, 1000.0, np.where(body, 0.0, -1000.0))
    prediction = np.where(body, 0.0, -1000.0)
    found = depth_errors(prediction, reference, body, SPACING, [0.0], table=WATER)[0.0]
    assert found.p95 == pytest.approx(13.3, abs=1e-3)  # 19 rows of .7 mm
    assert found.mean < -10
    assert found.to_centre == {}


def test_what_lies_outside_the_body_counts_as_nothing():
    *_, body = places()
    reference = np.where(body, 0.0, 500.0)
    prediction = np.where(body, 0.0, -1000.0)
    found = depth_errors(prediction, reference, body, SPACING, ANGLES)
    assert all(errors.mean == 0.0 and errors.p95 == 0.0 for errors in found.values())


def test_the_default_table_knows_icru_tissues():
    # ICRU 44: relative electron density of lung .258, adipose .951, muscle 1.040, cortical bone
    # 1.781; HU of the same tissues at 120 kV, as Schneider 2000 tabulates them.
    hu = np.array([-741.0, -77.0, 40.0, 1524.0])
    assert ELECTRON_DENSITY.of(hu) == pytest.approx([0.258, 0.951, 1.040, 1.781], abs=0.02)


def test_a_table_comes_from_a_file(tmp_path):
    path = tmp_path / "scanner.csv"
    path.write_text("\ufeffHU,density\n-1000,0\n0,1\n\n2000,2.5\n", encoding="utf-8")
    table = read_density_table(path)
    assert table == DensityTable((-1000.0, 0.0, 2000.0), (0.0, 1.0, 2.5))
    assert table.of(np.array([-2000.0, 1000.0, 9999.0])) == pytest.approx([0.0, 1.75, 2.5])


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "two or more rows"),
        ("HU,density\n0,1\n", "two or more rows"),
        ("0,1\n-5,1\n", "increasing HU"),
        ("0,1\n5,nan\n", "density of 0 or more"),
        ("0,1\n5,-1\n", "density of 0 or more"),
        ("0,1\n5;6\n", "row 2 must be two numbers"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, wrong):
    path = tmp_path / "scanner.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=wrong):
        read_density_table(path)
    os.mkfifo(tmp_path / "pipe.csv")  # reading it would never end
    for name in ("missing.csv", "pipe.csv"):
        with pytest.raises(DatasetError, match="CSV file"):
            read_density_table(tmp_path / name)


def test_no_body_is_said():
    image = np.zeros((2, 9, 9))
    with pytest.raises(DatasetError, match="no ray at 0 degrees"):
        depth_errors(image, image, image, SPACING, [0.0])
