import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from directions import oblique_direction

from gdmnet.data.case import Volume
from gdmnet.data.regrid import as_image
from gdmnet.datasets.phantom import make_patient
from gdmnet.datasets.registration import RigidMotion, move, register
from gdmnet.errors import DatasetError
from gdmnet.geometry import Geometry, lps_frame, nearest_lps

SPACING = (3.0, 1.5, 1.5)
SHAPE = (24, 48, 40)


def geometry(direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)):
    axes, flips = nearest_lps(direction)
    return Geometry(SHAPE, SPACING, (-40.0, 10.0, 300.0), direction, axes, flips)


@pytest.fixture(scope="module")
def pair():
    sources, target, body = make_patient(np.random.default_rng(3), SHAPE)
    return sources[0], target, body


def displaced(image, grid, translation, degrees=(0.0, 0.0, 0.0)):
    """The image pushed by `translation` (x, y, z) mm and turned, made by ITK alone."""
    centre = as_image(image, grid).TransformContinuousIndexToPhysicalPoint(
        [(n - 1) / 2 for n in SHAPE[::-1]]
    )
    push = sitk.Euler3DTransform(centre, *np.radians(degrees), translation)
    low = float(image.min())
    pushed = sitk.Resample(as_image(image, grid), push.GetInverse(), sitk.sitkLinear, low)
    return sitk.GetArrayFromImage(pushed)


def both(source, target, mask, grid):
    coarse = register(source, target, mask, grid, grain=4.0)
    return register(source, target, mask, grid, grain=2.0, start=coarse)


@pytest.mark.parametrize(
    "direction", [None, oblique_direction(), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)]
)
def test_a_shift_is_measured_in_millimetres_of_the_patient(pair, direction):
    source, target, body = pair
    grid = geometry(*([] if direction is None else [direction]))
    pushed = displaced(source, grid, (3.0, -4.0, 5.0))
    motion = both(pushed, target, body, grid)
    np.testing.assert_allclose(motion.translation, (3.0, -4.0, 5.0), atol=0.9)
    assert motion.distance == pytest.approx(50**0.5, abs=0.5)
    assert motion.angle < 1.0
    assert motion.information > 1.1 * motion.information_before


def test_a_turn_is_measured_in_degrees(pair):
    source, target, body = pair
    turned = displaced(source, geometry(), (0.0, 0.0, 0.0), (0.0, 0.0, 6.0))
    motion = both(turned, target, body, geometry())
    assert motion.angles[2] == pytest.approx(6.0, abs=0.7)
    assert motion.angle == pytest.approx(6.0, abs=0.7)


def test_a_registered_pair_stays_where_it_is(pair):
    source, target, body = pair
    motion = both(source, target, body, geometry())
    assert motion.distance < 0.5
    assert motion.angle < 0.7


def test_the_same_images_give_the_same_figures(pair):
    source, target, body = pair
    first, again = (register(source, target, body, geometry(), grain=4.0) for _ in range(2))
    np.testing.assert_allclose(again.translation, first.translation, atol=1e-6)
    assert again.information == pytest.approx(first.information, abs=1e-6)


def test_moving_undoes_the_motion(pair):
    source, target, body = pair
    grid = geometry(oblique_direction())
    pushed = displaced(source, grid, (3.0, -3.0, 6.0))
    motion = both(pushed, target, body, grid)
    moved = move(motion, Volume(pushed[None], grid))
    inside = body != 0
    before = np.abs(pushed - source)[inside].mean()
    assert np.abs(moved - source)[inside].mean() < 0.35 * before
    assert moved.min() >= pushed.min()
    assert moved.max() <= pushed.max()


def test_a_whole_voxel_is_moved_exactly():
    grid = geometry()
    image = np.zeros(SHAPE, dtype=np.float32)
    image[10, 20, 15] = 7.0
    motion = RigidMotion((1.5, -3.0, 3.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0, 0.5)
    moved = move(motion, Volume(image[None], grid), linear=True)
    assert moved[9, 22, 14] == pytest.approx(7.0, abs=1e-3)  # back: against the displacement


def test_no_background_is_made_up_where_the_image_ends():
    grid = geometry()
    noise = np.random.default_rng(0).uniform(5, 20, SHAPE)
    motion = RigidMotion((0.0, 0.0, 9.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0, 0.5)
    moved = move(motion, Volume(noise[None], grid), linear=True)
    np.testing.assert_allclose(moved[-3:], noise[-1:].repeat(3, axis=0), atol=1e-3)
    np.testing.assert_allclose(moved[:-3], noise[3:], atol=1e-3)


def test_the_angle_is_of_the_whole_rotation():
    motion = RigidMotion((3.0, 0.0, 4.0), (90.0, 0.0, 90.0), (0.0, 0.0, 0.0), 1.0, 1.0)
    assert motion.angle == pytest.approx(120.0, abs=1e-6)  # a corner's axis, three-fold
    assert motion.distance == pytest.approx(5.0)


def test_an_image_lies_in_the_files_space():
    grid = geometry(oblique_direction())
    origin, direction = lps_frame(grid)
    image = as_image(np.zeros(SHAPE), grid)
    point = image.TransformIndexToPhysicalPoint((3, 2, 1))
    np.testing.assert_allclose(point, origin + direction @ np.array([4.5, 3.0, 3.0]), atol=1e-6)


def test_images_that_do_not_meet_are_refused(pair):
    source, target, body = pair
    far = RigidMotion((1000.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0, 1.0)
    with pytest.raises(DatasetError, match="do not overlap"):
        register(source, target, body, geometry(), grain=4.0, start=far)
