"""Where the target counts: the patient always does."""

import numpy as np

from gdmnet.arrays.region import inscribed_circle, region_of

SHAPE, SPACING = (2, 12, 8), (3.0, 1.0, 1.0)


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
