import numpy as np
import pytest
from PIL import Image

from gdmnet.charts import Picture
from gdmnet.training import progress
from gdmnet.training.progress import INTERNALS_PNG, PROGRESS_PNG, draw_internals, draw_progress


@pytest.fixture(scope="module", autouse=True)
def _few_drawings():
    """Here all are drawn."""


def _records(n, **more):
    return [
        {
            "epoch": i,
            "epochs": n,
            "step": 10 * i,
            "learning_rate": 1e-3,
            "fidelity": 1.0 / i,
            "gradient_norm": 2.0 / i,
            "skipped": 0,
            "validation_mae": 1.0 / i,
            "validation_mae_smoothed": 1.1 / i,
            "validation_sharpness": 0.7,
            "best": i != 2,
            "seconds": 1.5,
        }
        | more
        for i in range(1, n + 1)
    ]


def _size(tmp_path, records, name=PROGRESS_PNG):
    draw_progress(records, tmp_path / PROGRESS_PNG)
    draw_internals(records, tmp_path / INTERNALS_PNG)
    with Image.open(tmp_path / name) as image:
        assert np.asarray(image.convert("L")).std() > 1  # something is drawn
        return image.size


def test_panels_appear_as_their_numbers_do_and_internals_in_a_picture_of_their_own(tmp_path):
    width, height = _size(tmp_path, _records(3))
    drift = _records(3, cos=-0.1, cos_local=0.1, conflict=0.8, force_local=0.1)
    assert _size(tmp_path, drift) == (width, height)
    look = _records(3, validation_spectrum_distance=2.0)  # the fourth of two rows of two
    assert _size(tmp_path, look) == (width, height)
    few = _size(tmp_path, _records(3), INTERNALS_PNG)
    assert few[1] < _size(tmp_path, drift, INTERNALS_PNG)[1]


@pytest.mark.parametrize("n", [0, 1, 2, 40])
def test_any_number_of_epochs_can_be_drawn(tmp_path, n):
    _size(tmp_path, _records(n))


def test_numbers_that_are_missing_are_left_out(tmp_path):
    records = _records(3, validation_mae=None, validation_mae_smoothed=None, fidelity=None)
    del records[1]["gradient_norm"]
    _size(tmp_path, records)


def test_only_the_picture_is_left_behind(tmp_path):
    _size(tmp_path, _records(1))
    assert {path.name for path in tmp_path.iterdir()} == {PROGRESS_PNG, INTERNALS_PNG}


@pytest.fixture
def drawn(monkeypatch):
    """What is to be drawn, by the name of the picture."""
    calls = {}

    def save(charts, path, **others):
        calls[path.name] = charts, others

    monkeypatch.setattr(progress, "save_charts", save)
    return calls


def test_errors_are_drawn_in_the_units_of_the_files(tmp_path, drawn):
    in_hu = [r | {"validation_mae_hu": 500 * r["validation_mae"]} for r in _records(3)]
    draw_progress(in_hu, tmp_path / PROGRESS_PNG)
    charts, others = drawn[PROGRESS_PNG]
    assert len(charts) <= 4
    errors = charts[1]
    assert errors.title == "Validation: mean absolute error (HU)"
    assert errors.curves[0].points == [(1.0, 500.0), (2.0, 250.0), (3.0, pytest.approx(500 / 3))]
    assert errors.star == (3.0, pytest.approx(550 / 3))
    assert "best epoch 3: smoothed MAE 183 HU" in others["heading"]


def test_a_validation_case_stands_above_the_curves(tmp_path, drawn):
    pictures = [Picture("source", np.linspace(-1000, 1000, 600).reshape(20, 30), -900.0, 900.0)]
    draw_progress(_records(3), tmp_path / PROGRESS_PNG, "case_7, plane 3 of 9", pictures)
    _, others = drawn[PROGRESS_PNG]
    assert others["heading"].endswith("\ncase_7, plane 3 of 9")
    assert others["above"] is pictures
