import numpy as np
import pytest
import torch

from gdmnet.commands.predict import PredictionOptions, main, run
from gdmnet.data.dicom_out import GRIDS
from gdmnet.data.volume import read_volume
from gdmnet.errors import SettingError
from gdmnet.folders import Roots
from gdmnet.models.select import ModelChoice
from gdmnet.settings import make_settings


@pytest.fixture
def place(tmp_path, models):
    """One finished model of two folds, and two cases."""
    models.make_model(tmp_path / "results", {"0": 0.0, "1": 100.0})
    for seed, name in enumerate("ab"):
        models.write_ct(tmp_path / "in" / f"{name}_0000.nii.gz", seed=seed)
    return tmp_path


def call(place, *options):
    roots = [f"--{name}={place / name}" for name in ("raw", "preprocessed", "results")]
    arguments = ["-i", str(place / "in"), "-o", str(place / "out"), "--device", "cpu"]
    return main([*arguments, *roots, *options])


def refusal(capsys):
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines[-1:]
    return errors[0]


def mean_shift(place, models, name="a", seed=0):
    result = read_volume(place / "out" / f"{name}.nii.gz").array[0]
    return (result - models.make_ct(seed=seed))[models.core()].mean()


def test_the_only_model_is_found_and_named_aloud(place, models, capsys):
    assert call(place, "-np", "2") == 0
    captured = capsys.readouterr()
    assert "regression__3d_fullres (final checkpoint, folds 0, 1) on cpu" in captured.err
    assert "2 predicted, 0 there already, 0 failed" in captured.out
    assert mean_shift(place, models) == pytest.approx(50)
    assert mean_shift(place, models, "b", 1) == pytest.approx(50)
    assert call(place) == 0
    assert "0 predicted, 2 there already, 0 failed" in capsys.readouterr().out


def test_folds_and_checkpoints_are_chosen_by_options(place, models):
    assert call(place, "-f", "1") == 0
    assert mean_shift(place, models) == pytest.approx(100)
    assert call(place, "-f", "0", "1", "--checkpoint", "best", "--overwrite", "--tta") == 0
    assert mean_shift(place, models) == pytest.approx(100, abs=1)


def test_a_model_is_named_by_its_folder(place, models, tmp_path_factory):
    folder = models.make_model(tmp_path_factory.mktemp("mail"), {"0": 30.0})
    assert call(place, "-m", str(folder), "--step-size", "1") == 0
    assert mean_shift(place, models) == pytest.approx(30)


def test_several_models_are_listed_and_one_is_narrowed_down(place, models, capsys):
    models.make_model(place / "results", {"0": 200.0}, objective="gdm")
    assert call(place) == 2
    listed = capsys.readouterr().err
    assert "-d 501 -c 3d_fullres --objective gdm  (folds 0" in listed
    assert "-d 501 -c 3d_fullres --objective regression  (folds 0, 1" in listed
    options = ["-d", "501", "-c", "3d_fullres", "--objective", "regression"]
    assert call(place, *options) == 0
    assert mean_shift(place, models) == pytest.approx(50)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["-d", "777"], "no dataset 777"),
        (["-f", "4"], "no finished model fits"),
        (["-c", "3d_highres"], "no finished model fits"),
        (["-m", "nowhere"], "not a model folder"),
        (["--device", "abacus"], "abacus"),
        (["-i", "nowhere"], "no such folder"),
        (["--num-parts", "2", "--part-id", "2"], "--part-id 2"),
    ],
)
def test_what_is_not_there_is_refused_with_status_two(place, capsys, options, text):
    assert call(place, *options) == 2
    assert text in capsys.readouterr().err
    assert not (place / "out").exists()


def test_an_unfinished_model_is_named_in_one_line(place, models, capsys, tmp_path_factory):
    results = tmp_path_factory.mktemp("unfinished")
    models.make_model(results, finished=False)
    assert call(place, "--results", str(results)) == 2
    assert "unfinished: Dataset501_Test/regression__3d_fullres/fold_0" in refusal(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_is_refused(place, capsys):
    assert call(place, "--device", "cuda") == 2
    assert "cuda" in refusal(capsys)


def test_an_output_that_cannot_be_written_is_refused(place, capsys):
    (place / "file").write_text("")
    assert call(place, "-o", str(place / "file")) == 2
    assert "cannot be written" in refusal(capsys)


def test_one_bad_case_gives_status_one_and_one_line(place, capsys):
    (place / "in" / "a_0000.nii.gz").write_bytes(b"no image")
    assert call(place) == 1
    assert (place / "out" / "b.nii.gz").is_file()
    assert "1 predicted, 0 there already, 1 failed" in capsys.readouterr().out


def test_nothing_but_bad_cases_gives_status_two(place):
    for name in "ab":
        (place / "in" / f"{name}_0000.nii.gz").write_bytes(b"no image")
    assert call(place) == 2


def test_the_median_of_the_folds_and_a_map_of_their_spread(place, models, capsys):
    models.make_model(place / "results", {"2": 20.0})
    options = ["--ensemble", "median", "--uncertainty"]
    assert call(place, *options) == 0
    assert "no fingerprint.json in the model" in capsys.readouterr().err
    assert mean_shift(place, models) == pytest.approx(20)
    spread = read_volume(place / "out/uncertainty/a.nii.gz").array[0]
    std = pytest.approx(np.std([0, 100, 20]), rel=1e-3)
    assert spread[models.core()].mean() == std


@pytest.mark.parametrize("step", ["0", "1.5", "-1", "x"])
def test_an_impossible_step_size_is_refused(place, capsys, step):
    with pytest.raises(SystemExit) as stop:
        call(place, "--step-size", step)
    assert stop.value.code == 2
    assert "--step-size" in capsys.readouterr().err


def test_the_names_of_options_are_those_of_what_they_choose_from():
    with pytest.raises(SettingError, match=f"take one of {', '.join(GRIDS)}$"):
        make_settings(PredictionOptions, {"dicom_grid": "none of them"})


def test_a_dataset_is_named_by_position_or_option(place, models):
    models.make_model(place / "results", {"0": 200.0}, dataset="Dataset502_Other")
    assert call(place, "501", "3d_fullres") == 0
    assert mean_shift(place, models) == pytest.approx(50)
    assert call(place, "-d", "502", "--overwrite") == 0
    assert mean_shift(place, models) == pytest.approx(200)


def test_options_that_need_another_are_refused_before_anything_is_loaded(place, capsys):
    assert call(place, "--dicom-grid", "source", "-m", "nowhere") == 2
    assert "need --dicom-out" in refusal(capsys)


def test_run_is_the_command_for_python(place, models):
    roots = Roots(place / "raw", place / "preprocessed", place / "results")
    outcome = run(
        place / "in",
        place / "out",
        roots,
        ModelChoice(folds=["0"]),
        options=PredictionOptions(device="cpu"),
    )
    assert outcome.predicted == ("a", "b")
    assert outcome.record == place / "out" / "predictions.json"
    assert mean_shift(place, models) == pytest.approx(0)
