import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from gdmnet.arrays import body
from gdmnet.arrays.body import (
    body_mask,
    has_zero_background,
    inscribed_circle,
    is_masked,
    padding,
    region_of,
)

SHAPE = (12, 60, 50)
SPACING = (3.0, 3.0, 3.0)


def ellipsoid(shape, radii, centre=(0.0, 0.0, 0.0)):
    """Voxels inside an ellipsoid; radii and centre in halves of the volume."""
    axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape]
    grid = np.meshgrid(*axes, indexing="ij")
    terms = zip(grid, radii, centre, strict=True)
    return sum(((g - c) / r) ** 2 for g, r, c in terms) <= 1


def dice(first, second):
    first, second = first != 0, second != 0
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@pytest.fixture
def patient():
    return ellipsoid(SHAPE, (9, 0.7, 0.8))  # leaves the volume at both ends


@pytest.fixture
def brain(patient, rng):
    """Brain-extracted T1: zero outside, and zero in the fluid inside."""
    image = np.where(patient, rng.uniform(50, 400, SHAPE), 0).astype(np.float32)
    image[:, 28:34, 22:28] = 0
    return image


@pytest.fixture
def chest(patient, rng):
    """CT in HU: lungs that leave the volume, a couch below, a holder beside, an air-filled gut."""
    image = np.full(SHAPE, -1000, dtype=np.float32)
    image[patient] = 40
    image[:, 22:38, 12:22] = image[:, 22:38, 28:38] = -850
    image[5, 40:44, 24:28] = -990
    image[:, 55:57, 2:48] = 100
    image[:, 5:9, 1:4] = 500
    return image + rng.normal(size=SHAPE).astype(np.float32)


def test_zeros_inside_the_patient_belong_to_the_body(brain, patient):
    mask, rule = body_mask(brain[None], SPACING, [False])
    assert rule == "non-zero"
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, patient)


def test_channels_with_zero_background_are_united(brain, patient):
    half = brain.copy()
    half[:, :30] = 0
    mask, rule = body_mask(np.stack([half, brain]), SPACING, [False, False])
    assert rule == "non-zero"
    np.testing.assert_array_equal(mask, patient)


def test_a_zero_background_decides_even_beside_a_ct(brain, chest, patient):
    mask, rule = body_mask(np.stack([chest, brain]), SPACING, [True, False])
    assert rule == "non-zero"
    np.testing.assert_array_equal(mask, patient)


def test_small_islands_are_dropped_and_large_ones_kept(brain, patient):
    brain[:, :3, :3] = 0
    brain[2, 0, 0] = 30
    brain[2:10, 0:5, 44:50] = 30  # as large as an arm beside a trunk
    mask, _ = body_mask(brain[None], SPACING, [False])
    assert mask[2, 0, 0] == 0
    assert mask[3, 1, 47] == 1


def test_ct_keeps_lungs_and_gas_and_leaves_the_couch(chest, patient):
    mask, rule = body_mask(chest[None], SPACING, [True])
    assert rule == "above -500 HU"
    assert mask[:, 22:38, 12:38].all()
    assert mask[5, 40:44, 24:28].all()
    assert not mask[:, 54:].any()
    assert not mask[:, :, :4].any()
    assert dice(mask, patient) > 0.99


def test_a_couch_that_touches_the_back_is_parted_from_it(chest, patient):
    back = np.flatnonzero(patient[0].any(axis=1))[-1]
    chest[:, back + 1 : back + 2] = 100  # a shell, one voxel thick, over the whole width
    mask, _ = body_mask(chest[None], SPACING, [True])
    assert not mask[:, back + 1, :15].any()
    assert dice(mask, patient) > 0.98


def test_a_lung_that_is_open_sideways_is_filled_from_another_side(chest):
    chest[4:6, 28:30, 38:] = -990  # cut through the chest wall in two slices
    mask, _ = body_mask(chest[None], SPACING, [True])
    assert mask[4:6, 22:38, 12:38].all()


def test_a_nose_that_is_as_thin_as_a_couch_is_kept(chest, patient):
    front = np.flatnonzero(patient[0].any(axis=1))[0]
    chest[:, front - 1 : front, 24:27] = 40
    mask, _ = body_mask(chest[None], SPACING, [True])
    assert mask[:, front - 1 : front, 24:27].all()


def test_a_block_that_touches_the_patient_is_a_holder_and_an_arm_or_finger_is_none():
    z, y, x = np.mgrid[:30, :110, :130]
    trunk = ((y - 45) / 28) ** 2 + ((x - 60) / 40) ** 2 <= 1
    arm = ((y - 45) / 12) ** 2 + ((x - 111) / 12) ** 2 <= 1
    finger = (z > 20) & (np.abs(y - 12) < 10) & (np.abs(x - 60) <= 3)
    block = (z > 10) & (z < 16) & (np.abs(y - 90) < 9) & (np.abs(x - 25) < 12)
    edge = (z == 12) & (np.abs(y - 75) < 10) & (np.abs(x - 33) <= 3)
    image = np.where(trunk | arm | finger | block | edge, 40.0, -1000.0).astype(np.float32)
    mask, _ = body_mask(image[None], (3.0, 2.0, 2.0), [True])
    assert mask[trunk | arm].all()
    assert mask[finger].all()
    assert not mask[block].any()


@pytest.mark.parametrize("bias", [0.0, 2.0])
def test_otsu_finds_a_patient_in_noise_under_a_bias_field(bias, patient, rng):
    field = np.exp(bias * np.linspace(-1, 1, SHAPE[1])).reshape(1, -1, 1)
    tissue = np.where(patient, 300, 0) * field
    tissue[:, 25:30, 20:25] = 0  # a sinus
    tissue[:, 30:34, :15] = 0  # bone without signal, open to the side
    noise = rng.normal(0, 8, (2, *SHAPE))
    image = np.hypot(tissue + noise[0], noise[1]).astype(np.float32)
    mask, rule = body_mask(image[None], SPACING, [False])
    assert rule == "otsu"
    assert mask[:, 25:30, 20:25].all()
    assert mask[:, 30:34, 8:15].all()
    assert dice(mask, ndimage.binary_dilation(patient, np.ones((1, 3, 3)))) > 0.97


def test_noise_that_is_rounded_to_zero_here_and_there_is_no_zero_background(patient, rng):
    for sigma in (0.4, 0.7, 2.0):
        noise = rng.normal(0, sigma, (2, *SHAPE))
        image = np.rint(np.hypot(np.where(patient, 300, 0) + noise[0], noise[1]))
        assert not has_zero_background(image)


@pytest.fixture
def noisy(patient, rng):
    """MR of the patient: tissue of 300 in Rician noise."""
    noise = rng.normal(0, 8, (2, *SHAPE))
    image = np.hypot(np.where(patient, 300, 0) + noise[0], noise[1])
    return np.rint(image).astype(np.float32)


def strip(image):
    image[:, -8:] = -1024  # the fill of a CT


def frame(image):
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    image[:, abs(y - 30) * 0.94 + abs(x - 25) * 0.34 > 29] = -1000


def spike(image):
    image[6, 30, 25], image[6, 5, 5] = -32767, 32516


def pixel(image):
    image[6, 3, 3] = -1000


@pytest.mark.parametrize("spoil", [strip, frame, spike, pixel])
def test_fill_values_and_single_voxels_do_not_decide_what_is_body(noisy, spoil):
    before, _ = body_mask(noisy[None], SPACING, [False])
    spoil(noisy)
    mask, rule = body_mask(noisy[None], SPACING, [False])
    assert rule == "otsu"
    filled = noisy <= -1000
    assert not mask[filled & (noisy > -2000) & padding(noisy)].any()
    assert dice(mask, (before != 0) & ~padding(noisy)) > 0.99
    assert padding(noisy).sum() == (filled.sum() if spoil in (strip, frame) else 0)


def test_a_masked_image_in_deviations_has_no_padding_in_its_body(brain, patient):
    scores = (brain - brain.mean()) / brain.std()
    mask, _ = body_mask(scores[None], SPACING, [False])
    assert dice(mask, patient) > 0.93  # the rim of skin


@pytest.mark.parametrize("where", ["corners", "sides", "all round"])
def test_zeros_in_a_part_of_the_air_are_no_zero_background(noisy, patient, where):
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    zeros = {
        "corners": abs(y - 29.5) / SHAPE[1] + abs(x - 24.5) / SHAPE[2] > 0.75,
        "sides": (x < 3) | (x > 46),
        "all round": (x < 2) | (x > 47) | (y < 4) | (y > 55),
    }[where]
    whole, _ = body_mask(noisy[None], SPACING, [False])
    noisy[:, zeros] = 0
    assert has_zero_background(noisy)
    assert not is_masked(noisy, SPACING)
    mask, rule = body_mask(noisy[None], SPACING, [False])
    assert rule == "otsu"
    assert dice(mask, whole) > 0.97
    assert dice(mask, patient) > 0.93
    assert is_masked(np.where(patient, noisy, 0), SPACING)


def test_zeros_inside_alone_are_no_background(brain, patient):
    brain[~patient] = 7
    assert not has_zero_background(brain)
    brain[[0, 1, -2, -1]] = 7
    brain[2:-2, 26:40, 15:35] = 0
    brain[:6, :10, :10] = 0  # a corner is not much of a background
    assert not has_zero_background(brain)
    assert not has_zero_background(brain[7:8])  # in a single slice every voxel is at an end of z


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_of_any_orientation_is_masked_and_filled(axis, rng):
    shape = [40, 44, 48]
    shape[axis] = 1
    radii = [0.7, 0.7, 0.7]
    patient = ellipsoid(shape, radii)
    hole = ellipsoid(shape, [0.2, 0.2, 0.2])
    brain = np.where(patient & ~hole, 100, 0).astype(np.float32)
    mask, rule = body_mask(brain[None], SPACING, [False])
    assert rule == "non-zero"
    np.testing.assert_array_equal(mask, patient)
    ct = np.where(patient & ~hole, 40, -1000).astype(np.float32)
    mask, rule = body_mask(ct[None], SPACING, [True])
    assert rule == "above -500 HU"
    assert dice(mask, patient) > 0.97
    noise = rng.normal(0, 5, (2, *shape))
    mask, rule = body_mask(np.hypot(brain + noise[0], noise[1])[None], SPACING, [False])
    assert rule == "otsu"
    assert mask[hole].all()
    assert dice(mask, patient) > 0.85  # a thin rim of skin more


def test_a_dent_in_a_single_slice_is_no_hole():
    ct = np.full((1, 40, 40), -1000, dtype=np.float32)
    ct[0, 5:35, 5:15] = ct[0, 5:35, 25:35] = ct[0, 25:35, 5:35] = 40  # a U, open at the top
    mask, _ = body_mask(ct[None], SPACING, [True])
    assert not mask[0, 6:24, 17:23].any()


@pytest.mark.parametrize(
    ("level", "is_ct"), [(0, False), (7, False), (-1000, False), (-1000, True)]
)
def test_a_mask_is_never_empty(level, is_ct):
    mask, rule = body_mask(np.full((1, 3, 8, 8), level, dtype=np.float32), SPACING, [is_ct])
    assert rule == "whole volume"
    assert mask.all()


@pytest.mark.real
def test_real_scans_get_the_rule_that_suits_them(shared):
    from gdmnet.data.volume import read_volume

    raw = shared / "data" / "raw"
    for name, is_ct, rule, share in [
        ("Dataset501_BrainT1toT2/imagesTr/brain_01_0000", False, "non-zero", (0.36, 0.38)),
        ("Dataset501_BrainT1toT2/imagesTr/brain_10_0000", False, "non-zero", (0.60, 0.64)),
        ("Dataset510_SimulatedMRtoCT/imagesTr/headneck_01_0000", False, "non-zero", (0.24, 0.28)),
        ("Dataset510_SimulatedMRtoCT/targetsTr/headneck_20", True, "above -500 HU", (0.63, 0.67)),
    ]:
        volume = read_volume(raw / f"{name}.nii.gz")
        mask, found = body_mask(volume.array, volume.geometry.spacing, [is_ct])
        assert found == rule, name
        assert share[0] < mask.mean() < share[1], name


def test_the_small_end_slices_of_a_head_stay_in_the_body():
    z, y, x = np.mgrid[:20, :40, :40]
    head = ((z - 9.5) / 9) ** 2 + ((y - 19.5) / 15) ** 2 + ((x - 19.5) / 15) ** 2 <= 1
    image = np.where(head, 40.0, -1000.0).astype(np.float32)
    mask, rule = body_mask(image[None], (3.0, 1.2, 1.2), [True])
    assert rule == "above -500 HU"
    assert (mask[head] == 1).all()


def test_the_circle_never_cuts_the_patient():
    body = np.zeros(SHAPE, np.uint8)
    body[:, :, :5] = 1  # a cropped image, full of the patient from front to back
    circle = inscribed_circle(SHAPE, SPACING)
    found = region_of("circle", body, SPACING)
    assert (body > circle).any()
    np.testing.assert_array_equal(found != 0, (circle != 0) | (body != 0))


def test_the_other_regions():
    body = np.zeros(SHAPE, np.uint8)
    body[0, 3:6, 2:4] = 1
    assert region_of("body", body, SPACING) is body
    assert region_of("everything", body, SPACING).all()


@pytest.mark.parametrize("rule", [body.NON_ZERO, body.CT, body.OTSU])
def test_fine_grids_are_looked_at_in_steps_and_their_rim_voxel_by_voxel(rule, rng, monkeypatch):
    """The same body as voxel by voxel throughout, with an exact edge where there is one."""
    shape, spacing = (37, 150, 131), (2.0, 0.7, 0.6)
    z, y, x = ((np.arange(n) - n / 2) * s for n, s in zip(shape, spacing, strict=True))
    z, y, x = z[:, None, None], y[:, None], x
    inside = (z / 40) ** 2 + ((y + 0.3 * z) / 38) ** 2 + ((x - 0.2 * y) / 28) ** 2 < 1
    hole = (z / 12) ** 2 + (y / 9) ** 2 + ((x - 9) / 9) ** 2 < 1
    tissue = np.where(inside & ~hole, 1000.0, 0.0) + rng.normal(0, 40, shape)
    image = {
        body.NON_ZERO: np.where(inside & ~hole, tissue, 0),
        body.CT: tissue - 1000,
        body.OTSU: np.abs(tissue),
    }[rule][None].astype(np.float32)
    found, by = body.body_mask(image, spacing, [rule == body.CT])
    monkeypatch.setattr(body, "_FINE", 0.0)
    whole, _ = body.body_mask(image, spacing, [rule == body.CT])
    assert by == rule
    assert 2 * (found & whole).sum() / (found.sum() + whole.sum()) > 0.998
    if rule != body.OTSU:
        np.testing.assert_array_equal(found != 0, inside)


@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)),
    st.tuples(*[st.integers(0, 12)] * 3),
)
def test_masks_grow_and_shrink_like_running_extremes(mask, reach):
    size = [2 * n + 1 for n in reach]
    largest = ndimage.maximum_filter(mask, size, mode="nearest")
    least = ndimage.minimum_filter(mask, size, mode="nearest")
    np.testing.assert_array_equal(body._grown(mask, reach), largest)
    np.testing.assert_array_equal(~body._grown(~mask, reach), least)


@pytest.mark.parametrize("shape", [(1, 30, 30), (30, 1, 30), (2, 3, 1), (1, 1, 1)])
def test_a_grid_that_is_fine_along_an_axis_of_few_voxels_is_not_stepped_over(shape):
    image = np.where(ellipsoid(shape, (0.8, 0.8, 0.8)), 40, -1000).astype(np.float32)
    mask, _ = body_mask(image[None], (0.3, 0.3, 0.3), [True])
    assert mask.shape == shape
    assert mask[image > 0].all()
