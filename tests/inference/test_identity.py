"""A network that changes nothing gives every file back: read, prepared, in windows, restored.

Half of the plans have the file's spacing, half are coarser along some axes (from finer ones the
way back smooths). By default a handful of files, all 300 with
`pytest -m slow tests/inference/test_identity.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

from gdmnet.arrays.body import body_mask
from gdmnet.data.case import Volume
from gdmnet.data.case_files import FORMATS
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.geometry import Geometry, nearest_lps
from gdmnet.inference import PredictionSettings, load_model

FEW = 9
MOST = 1e-5  # of the image's range


def identity_error(place, models, number):
    """The largest error in the body over the image's range, of a file drawn by its number."""
    rng = np.random.default_rng(number)
    shape = tuple(int(side) for side in rng.integers(1, 40, 3))
    spacing = tuple(float(side) for side in np.exp(rng.uniform(np.log(0.4), np.log(5.0), 3)))
    coarser = rng.uniform(1, 2.5, 3) ** rng.choice([0, 1], 3) if number % 2 else np.ones(3)
    planned = tuple(float(side) for side in spacing * coarser)
    aligned = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    oblique = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    direction = tuple(float(c) for c in (oblique if number % 3 else aligned).ravel())
    ending = FORMATS[rng.integers(len(FORMATS))]
    ct = models.make_ct(shape, seed=number)[None]
    ct[0][tuple(n // 2 for n in shape)] = 40.0  # small files may be all air, which is refused
    path = place / f"case_0000{ending}"
    grid = Geometry(shape, spacing, (-20.5, 7.25, 3.0), direction, *nearest_lps(direction))
    write_volume(path, Volume(ct, grid))
    model = models.make_model(
        place, configuration=models.make_configuration(spacing=planned), integer=False
    )
    how = PredictionSettings(step_size=float(rng.choice([0.4, 0.5, 1.0])), tta=number % 5 == 0)
    load_model(model, how, device="cpu").translate_files(path, place / f"out{ending}")
    given, made = read_volume(path).array, read_volume(place / f"out{ending}").array
    inside = body_mask(given, spacing, [True])[0] != 0
    return float(np.abs(made - given)[0][inside].max()) / max(1.0, float(np.ptp(given)))


@pytest.mark.parametrize("number", range(FEW))
def test_a_network_that_changes_nothing_gives_the_file_back(tmp_path, models, number):
    assert identity_error(tmp_path, models, number) < MOST


@pytest.mark.slow
def test_three_hundred_files_of_all_shapes_spacings_and_orientations(tmp_path, models):
    errors = []
    for number in range(300):
        place = tmp_path / str(number)
        place.mkdir()
        errors.append(identity_error(place, models, number))
    worst = int(np.argmax(errors))
    print(f"worst {errors[worst]:.2g} of the range ({worst}), median {np.median(errors):.2g}")
    assert max(errors) < MOST
