"""Contact sheets: every pair in squares, true to scale."""

import numpy as np
import pytest
from PIL import Image

from gdmnet.data.raw import read_description, training_cases
from gdmnet.data.volume import read_volume
from gdmnet.datasets.pair_picture import A_SHEET, draw_thumbnail, save_contact_sheets
from gdmnet.datasets.phantom import Scanner, write_phantom_dataset


def test_a_thumbnail_has_square_pixels_and_shows_both_images(tmp_path):
    scanner = Scanner((8.0, 4.0, 2.0), varied_shapes=False)
    raw = write_phantom_dataset(tmp_path, n_train=1, n_test=0, shape=(10, 30, 40), scanner=scanner)
    description = read_description(raw)
    (case,), _ = training_cases(raw, description)
    picture = draw_thumbnail(case, description)
    places = np.argwhere(read_volume(case.target).array[0] > -80)  # fat and more
    depth, height, width = (np.ptp(places, axis=0) + 1) * scanner.spacing  # mm
    rows, columns = picture.shape
    assert rows / columns == pytest.approx((height + depth) / width, rel=0.02)
    assert columns <= 220 < rows
    assert (picture.min(), picture.max()) == pytest.approx((0, 1), abs=0.05)


def test_many_pairs_fill_several_sheets(tmp_path):
    thumbnails = [(f"case_{i}", np.full((20, 30), i / 50)) for i in range(A_SHEET + 1)]
    paths = save_contact_sheets(thumbnails, tmp_path, heading="pairs")
    assert [path.name for path in paths] == ["contact_sheet_1.png", "contact_sheet_2.png"]
    heights = [Image.open(path).size[1] for path in paths]
    assert heights[0] > 3 * heights[1]
    assert save_contact_sheets([], tmp_path, heading="none") == []
