"""Structures and registrations: voxels by analytic contours, points by matrices."""

import numpy as np
import pytest
from dicoms import AXIAL, SAGITTAL, make_registration, make_structures, save, turned, write_series

from gdmnet.data.dicom import only_series
from gdmnet.data.dicom_objects import (
    DrawnRegions,
    is_called,
    read_regions,
    read_structures,
    registered_geometry,
    registration_between,
    series_drawn_on,
    slices_without,
)
from gdmnet.errors import DatasetError
from gdmnet.geometry import lps_frame

SHAPE = (20, 64, 60)  # slices, rows, columns
SPACING = (3.0, 1.5, 1.25)
FRAME = "1.2.826.0.1.3680043.9999.2000"
ANGLES = np.linspace(0, 2 * np.pi, 90, endpoint=False)


@pytest.fixture(params=[AXIAL, SAGITTAL, turned()], ids=["axial", "sagittal", "oblique"])
def series(request, tmp_path):
    write_series(tmp_path / "ct", np.zeros(SHAPE), direction=request.param, Modality="CT")
    return only_series(tmp_path / "ct")


def in_patient(series, points):
    """Points (n, 3) in mm along columns, rows and slices, from the first voxel, in the patient."""
    direction = np.reshape(series.geometry.itk_direction, (3, 3))
    return points @ direction.T + series.geometry.itk_origin


def places(series):
    """mm along columns, rows and slices of every LPS voxel, each (z, y, x)."""
    origin, direction = lps_frame(series.geometry)
    shape, spacing = series.geometry.shape, series.geometry.spacing
    z, y, x = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"
    )
    points = np.stack([x, y, z], axis=-1) @ direction.T + origin
    own = np.reshape(series.geometry.itk_direction, (3, 3))
    return np.moveaxis((points - series.geometry.itk_origin) @ own, -1, 0)


def circle(series, centre, radius, height):
    column, row = centre[0] + radius * np.cos(ANGLES), centre[1] + radius * np.sin(ANGLES)
    return in_patient(series, np.stack([column, row, np.full_like(row, height)], axis=1))


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def read(tmp_path, series, structures, patterns, **options):
    path = save(tmp_path / "rs.dcm", make_structures(structures, FRAME, series.uid), **options)
    return read_regions(DrawnRegions((path,), patterns, series, series.geometry)).array[0]


def test_an_analytic_ball_is_drawn_to_a_dice_of_99_percent(tmp_path, series):
    heights = np.arange(SHAPE[0]) * SPACING[0]
    centre, radius = np.array([36.0, 46.0, 28.0]), 26.0
    inside = [
        (h, np.sqrt(radius**2 - (h - centre[2]) ** 2))
        for h in heights
        if abs(h - centre[2]) < radius
    ]
    contours = [circle(series, centre[:2], r, h) for h, r in inside]
    labels = read(tmp_path, series, {"Ball": contours}, ("ball",))
    column, row, height = places(series)
    wanted = (column - 36) ** 2 + (row - 46) ** 2 + (height - 28) ** 2 < radius**2
    assert labels.shape == series.geometry.shape
    assert dice(labels > 0, wanted) >= 0.99


def test_holes_and_parts_are_drawn(tmp_path, series):
    structures = {
        "Ring": [
            c
            for h in (6.0, 9.0)
            for c in (circle(series, (36, 46), 25, h), circle(series, (36, 46), 12, h))
        ],
        "PTV 1": [circle(series, (15, 20), 8, 6.0), circle(series, (50, 70), 10, 6.0)],
        "ptv_2": [circle(series, (36, 46), 6, 9.0)],
        "other": [circle(series, (36, 46), 28, 12.0)],
    }
    labels = read(tmp_path, series, structures, ("ring", "PTV*"))
    column, row, height = places(series)
    from_middle = np.hypot(column - 36, row - 46)
    ring = (from_middle < 25) & (from_middle >= 12) & np.isin(np.rint(height), (6, 9))
    first = (np.hypot(column - 15, row - 20) < 8) | (np.hypot(column - 50, row - 70) < 10)
    targets = (first & (np.rint(height) == 6)) | ((from_middle < 6) & (np.rint(height) == 9))
    assert dice(labels == 2, targets) >= 0.99
    assert dice(labels == 1, ring & ~targets) >= 0.99
    assert set(np.unique(labels)) == {0, 1, 2}


def test_the_series_that_was_drawn_on_is_found(tmp_path, series):
    mr = write_series(
        tmp_path / "mr", np.zeros((7, 40, 40)), spacing=(5.5, 1, 1), origin=(0, 0, 1.3)
    )
    other = only_series(tmp_path / "mr")
    contours = {"Body": [circle(series, (36, 46), 25, h) for h in (6.0, 9.0, 15.0)]}
    path = save(tmp_path / "rs.dcm", make_structures(contours, FRAME))
    (structure,) = read_structures(path)
    assert series_drawn_on(structure, [other, series]) is series
    assert slices_without(structure, series) == [5]
    with pytest.raises(DatasetError, match=r"Body of rs\.dcm does not lie on the slices of MR t1"):
        series_drawn_on(structure, [other])
    foreign = save(tmp_path / "f.dcm", make_structures(contours, "1.2.3"))
    with pytest.raises(DatasetError, match="the frame of reference of none"):
        series_drawn_on(read_structures(foreign)[0], [other, series])
    assert len(mr) == 7


@pytest.mark.parametrize(
    ("pattern", "fits"), [("BODY|EXTERNAL", True), ("ext*", True), ("body", False), ("x", False)]
)
def test_names_are_compared_in_any_case(tmp_path, series, pattern, fits):
    contours = {"External ": [circle(series, (36, 46), 25, 6.0)]}
    path = save(tmp_path / "rs.dcm", make_structures(contours, FRAME))
    assert is_called(read_structures(path)[0], pattern) == fits


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [1, 2, float("inf")], []])
@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_a_damaged_structure_set_is_refused(tmp_path, series, data):
    item = make_structures({"Body": [circle(series, (36, 46), 25, 6.0)]}, FRAME)
    item.ROIContourSequence[0].ContourSequence[0].ContourData = data
    with pytest.raises(DatasetError, match=r"rs\.dcm: a structure set that cannot be read"):
        read_structures(save(tmp_path / "rs.dcm", item))


def rigid(degrees=12.0, translation=(30.0, -20.0, 7.5)):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turned(degrees, 5.0), translation
    return matrix


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_a_registration_maps_points_between_any_of_its_frames(tmp_path, series):
    write_series(tmp_path / "mr", np.zeros(SHAPE), FrameOfReferenceUID="1.2.3")
    mr = only_series(tmp_path / "mr")
    matrix = rigid()
    there = save(tmp_path / "a.dcm", make_registration({"1.2.3": np.eye(4), FRAME: matrix}))
    np.testing.assert_allclose(registration_between([there], series, mr), matrix, atol=1e-6)
    back = np.linalg.inv(matrix)
    np.testing.assert_allclose(registration_between([there], mr, series), back, atol=1e-6)
    third = save(
        tmp_path / "b.dcm", make_registration({"9.9": np.eye(4), "1.2.3": back, FRAME: np.eye(4)})
    )
    np.testing.assert_allclose(registration_between([third, there], series, mr), matrix, atol=1e-6)
    unrelated = save(tmp_path / "c.dcm", make_registration({"9.9": np.eye(4), FRAME: matrix}))
    assert registration_between([unrelated], series, mr) is None
    other = save(tmp_path / "d.dcm", make_registration({"1.2.3": np.eye(4), FRAME: rigid(3.0)}))
    with pytest.raises(DatasetError, match=r"a\.dcm and d\.dcm register CT t1 vibe in two ways"):
        registration_between([there, other], series, mr)
    for place, value in {(0, 1): 0.3, (0, 3): np.nan, (3, 0): 0.1, (3, 3): 2.0}.items():
        odd = matrix.copy()
        odd[place] = value
        path = save(tmp_path / "e.dcm", make_registration({"1.2.3": np.eye(4), FRAME: odd}))
        with pytest.raises(DatasetError, match=r"e\.dcm: is no rigid registration"):
            registration_between([path], series, mr)
    path = save(tmp_path / "f.dcm", make_registration({"1.2.3": np.zeros((4, 4)), FRAME: matrix}))
    with pytest.raises(DatasetError, match=r"f\.dcm: is no rigid registration"):
        registration_between([path], series, mr)
    silent = make_registration({"1.2.3": np.eye(4), FRAME: matrix})
    del silent.RegistrationSequence[1].MatrixRegistrationSequence
    assert registration_between([save(tmp_path / "g.dcm", silent)], series, mr) is None


@pytest.mark.parametrize("degrees", [12.0, 80.0, 180.0])
def test_a_registered_grid_has_every_voxel_where_the_matrix_puts_it(series, degrees):
    matrix = rigid(degrees)
    moved = registered_geometry(series.geometry, matrix)
    for index in ((0, 0, 0), (3, 5, 7), (19, 63, 59)):  # slice, row, column
        step = np.array(index[::-1]) * (SPACING[2], SPACING[1], SPACING[0])
        before = in_patient(series, step)
        after = step @ np.reshape(moved.itk_direction, (3, 3)).T + moved.itk_origin
        np.testing.assert_allclose(after, matrix[:3, :3] @ before + matrix[:3, 3], atol=1e-9)
    assert np.argmax(np.abs(lps_frame(moved)[1]), axis=0).tolist() == [0, 1, 2]
    assert (np.diag(lps_frame(moved)[1]) > 0).all()
