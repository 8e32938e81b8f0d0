import numpy as np
import pytest

from gdmnet import codec
from gdmnet.errors import DatasetError
from gdmnet.tomography.scan import Detector, Grid, Scan, covering_scan

GRID = Grid((20, 30), (2.0, 1.5))


def test_the_end_of_the_arc_is_no_view():
    scan = Scan(60, 180.0, Detector(5, 1.0), start=10.0)
    angles = np.rad2deg(scan.angles())
    assert angles[0] == pytest.approx(10)
    assert angles[-1] == pytest.approx(187)
    assert np.diff(angles) == pytest.approx(np.full(59, 3.0))


def test_bins_are_centred_and_shifted_by_the_offset():
    assert Scan(1, 180.0, Detector(4, 2.0)).positions() == pytest.approx([-3, -1, 1, 3])
    shifted = Scan(1, 180.0, Detector(4, 2.0, offset=0.25))
    assert shifted.positions() == pytest.approx([-2.5, -0.5, 1.5, 3.5])


@pytest.mark.parametrize("shape", ["flat", "curved"])
def test_the_rays_of_a_fan_pass_the_isocentre_at_their_distance(shape):
    scan = Scan(8, 360.0, Detector(9, 10.0, shape), source_distance=100.0, start=20.0)
    for angle in scan.angles():
        source = 100 * np.array([np.sin(angle), -np.cos(angle)])
        for position, gamma, distance in zip(
            scan.positions(), scan.fan_angles(), scan.distances(), strict=True
        ):
            if shape == "flat":
                bin_place = position * np.array([np.cos(angle), np.sin(angle)])
            else:  # on the arc about the source, as many mm along it
                turned = angle - position / 100
                bin_place = source + 100 * np.array([-np.sin(turned), np.cos(turned)])
            direction = bin_place - source
            normal = np.array([direction[1], -direction[0]]) / np.linalg.norm(direction)
            assert normal @ source == pytest.approx(distance)
            theta = angle - gamma
            assert normal == pytest.approx([np.cos(theta), np.sin(theta)])


def test_a_detector_behind_the_patient_is_magnified():
    near = Scan(4, 360.0, Detector(9, 1.0), source_distance=500.0)
    far = Scan(4, 360.0, Detector(9, 2.0), source_distance=500.0, detector_distance=1000.0)
    assert far.positions() == pytest.approx(near.positions())
    assert far.distances() == pytest.approx(near.distances())


@pytest.mark.parametrize(
    ("source", "shape"), [(None, "flat"), (60.0, "flat"), (60.0, "curved"), (595.0, "curved")]
)
def test_a_covering_scan_sees_the_corners_and_hardly_more(source, shape):
    scan = covering_scan(GRID, 10, arc=360.0, source_distance=source, shape=shape)
    assert GRID.radius() == pytest.approx(np.hypot(20, 22.5))
    assert GRID.radius() <= scan.radius()
    assert np.abs(scan.distances()[1:-1]).max() < GRID.radius()


def test_a_finer_detector_sees_as_much():
    scan = covering_scan(GRID, 10, arc=180.0, pitch=0.5)
    assert scan.pitch() == 0.5
    assert GRID.radius() <= scan.radius() < GRID.radius() + 1


def test_the_radius_ends_where_the_nearer_end_of_the_detector_does():
    assert Scan(4, 180.0, Detector(10, 2.0)).radius() == pytest.approx(10)
    assert Scan(4, 180.0, Detector(10, 2.0, offset=2.0)).radius() == pytest.approx(6)


def test_a_source_inside_the_slice_is_refused():
    with pytest.raises(DatasetError, match=r"30 mm from its middle.*--source-distance"):
        covering_scan(GRID, 10, arc=360.0, source_distance=30.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_views": 0}, "at least one view"),
        ({"detector": Detector(1, 1.0)}, "two detector bins"),
        ({"arc": 0.0}, "arc is 0 degrees"),
        ({"arc": 400.0}, "arc is 400 degrees"),
        ({"detector": Detector(5, -1.0)}, "must be positive"),
        ({"source_distance": 0.0}, "must be positive"),
        ({"detector": Detector(5, 1.0, "round")}, "'round': choose flat or curved"),
        ({"detector": Detector(5, 1.0, "curved")}, "parallel beam has a flat detector"),
        ({"detector_distance": 900.0}, "parallel beam has a flat detector"),
        (
            {"detector": Detector(999, 1.0, "curved"), "source_distance": 100.0},
            "behind the source",
        ),
    ],
)
def test_impossible_scans_are_refused_in_words(options, words):
    with pytest.raises(DatasetError, match=words):
        Scan(**{"n_views": 4, "arc": 180.0, "detector": Detector(5, 1.0), **options})


def test_a_scan_goes_to_json_and_back():
    scan = Scan(7, 200.0, Detector(9, 1.25, "curved", 0.25), 595.0, 1085.6, 3.0)
    assert codec.decode(Scan, codec.encode(scan)) == scan
