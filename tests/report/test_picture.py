import numpy as np
import pytest
from PIL import Image

from gdmnet.errors import OutputError
from gdmnet.report.picture import Panel, draw_panels, save_picture

SPACING = (2.0, 1.0, 1.0)


def panel(image, **options):
    return Panel("image", image, 0.0, 1.0, **options)


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


def brightest(picture, top, bottom):
    """Centre (down, right) of the bright pixels between two shares of the height."""
    grey = pixels(picture).sum(-1)
    rows = slice(int(top * len(grey)), int(bottom * len(grey)))
    down, right = np.nonzero(grey[rows] > 500)
    return down.mean() + rows.start, right.mean()


def test_columns_stand_side_by_side():
    image = np.zeros((8, 16, 16))
    one = draw_panels([panel(image)], SPACING)
    three = draw_panels([panel(image)] * 3, SPACING)
    assert three.height == one.height
    assert three.width > 2.9 * (one.width - 10)


def test_planes_are_isotropic_whatever_the_spacing():
    coarse = draw_panels([panel(np.zeros((8, 16, 16)))], (2.0, 1.0, 1.0))
    fine = draw_panels([panel(np.zeros((16, 16, 16)))], (1.0, 1.0, 1.0))
    assert coarse.size == fine.size


def test_a_slice_shows_its_only_plane():
    thick = draw_panels([panel(np.zeros((16, 16, 16)))], (1.0, 1.0, 1.0))
    thin = draw_panels([panel(np.zeros((1, 16, 16)))], (1.0, 1.0, 1.0))
    assert thin.height < 0.5 * thick.height


def test_left_is_right_front_is_up_and_head_is_up():
    image = np.zeros((16, 16, 16))
    image[8:15, 2:9, 8:15] = 1  # superior, anterior, left
    picture = draw_panels([panel(image)], (1.0, 1.0, 1.0))
    # three square planes of 200 pixels below the title: axial, coronal, sagittal
    axial = brightest(picture, 0.04, 0.34)
    coronal = brightest(picture, 0.37, 0.64)
    sagittal = brightest(picture, 0.68, 0.90)
    assert axial[1] > 120
    assert axial[0] < 120
    assert coronal[1] > 120
    assert coronal[0] < 240 + 100
    assert sagittal[1] < 100
    assert sagittal[0] < 450 + 100


def test_a_window_clips_to_black_and_white():
    image = np.full((4, 4, 4), 5.0)
    high = pixels(draw_panels([Panel("", image, 0, 1)], (1.0, 1.0, 1.0)))
    low = pixels(draw_panels([Panel("", image, 9, 10)], (1.0, 1.0, 1.0)))
    assert (high[100, 100] == 255).all()
    assert (low[100, 100] == 0).all()


@pytest.mark.parametrize(("value", "strongest"), [(-1.0, 2), (1.0, 0)])
def test_errors_are_blue_below_and_orange_above(value, strongest):
    image = np.full((4, 4, 4), value)
    colour = pixels(draw_panels([Panel("", image, -1, 1, signed=True)], (1.0, 1.0, 1.0)))[100, 100]
    assert np.argmax(colour) == strongest


def test_no_error_is_black():
    colour = pixels(
        draw_panels([Panel("", np.zeros((4, 4, 4)), -1, 1, signed=True)], (1.0, 1.0, 1.0))
    )[100, 100]
    assert (colour < 8).all()


def test_panels_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="share one shape"):
        draw_panels([panel(np.zeros((4, 4, 4))), panel(np.zeros((4, 4, 5)))], SPACING)


def test_a_saved_picture_can_be_opened(tmp_path):
    picture = draw_panels([panel(np.eye(8)[None].repeat(8, 0))], SPACING, heading="a case")
    path = tmp_path / "new" / "case.png"
    save_picture(picture, path)
    assert np.array_equal(pixels(Image.open(path)), pixels(picture))
    assert [p.name for p in path.parent.iterdir()] == ["case.png"]


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"case\.png: cannot be written"):
        save_picture(draw_panels([panel(np.zeros((4, 4, 4)))], SPACING), tmp_path / "file/case.png")
