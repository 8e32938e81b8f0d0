import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from gdmnet.commands.predict import main
from gdmnet.data.case import CaseFiles
from gdmnet.data.volume import read_volume
from gdmnet.datasets.sparse_view import find_ct_volumes, write_sparse_view_dataset
from gdmnet.errors import DatasetError, OutputError
from gdmnet.inference import load_model
from gdmnet.inference.inputs import find_cases
from gdmnet.inference.predict import predict_folder
from gdmnet.plan import Normalisation
from gdmnet.tomography.consistency import data_consistent
from gdmnet.tomography.scan import ScanSettings, load_acquisition, load_sinogram

SHAPE = (11, 40, 44)


@pytest.fixture(scope="module")
def home(tmp_path_factory, models):
    """A model that returns its source, and a simulated dataset; do not write into it."""
    home = tmp_path_factory.mktemp("home")
    for seed, name in enumerate("ab"):
        models.write_ct(home / "ct" / f"{name}.nii.gz", shape=SHAPE, seed=seed)
    cts = find_ct_volumes(home / "ct")
    folder = home / "raw" / "Dataset502_SparseView40"
    write_sparse_view_dataset(folder, cts[:1], cts[1:], ScanSettings(views=40), keep_sinograms=True)
    models.make_model(home / "results")
    return home


@pytest.fixture
def dataset(home, tmp_path):
    return shutil.copytree(home / "raw", tmp_path / "raw") / "Dataset502_SparseView40"


@pytest.fixture
def translator(home):
    (model,) = (home / "results").glob("*/*")
    return load_model(model, device="cpu")


def predicted(translator, dataset, output, **options):
    cases = find_cases(dataset / "imagesTs", translator.plan)
    finishing = translator.with_data_consistency(cases, **options)
    return finishing, predict_folder(finishing, cases, output)


def test_predictions_get_nearer_to_the_truth_inside_the_body(translator, dataset, tmp_path):
    predict_folder(translator, dataset / "imagesTs", tmp_path / "plain")
    predicted(translator, dataset, tmp_path / "consistent")
    target = read_volume(dataset / "targetsTs/b.nii.gz").array
    plain, found = (read_volume(tmp_path / f"{name}/b.nii.gz") for name in ("plain", "consistent"))
    assert found.geometry == plain.geometry
    body = plain.array > -1024
    errors = [np.abs(v.array - target)[body].mean() for v in (plain, found)]
    assert errors[1] < 0.95 * errors[0]
    assert np.array_equal(found.array[~body], plain.array[~body])
    source = dataset / "imagesTs/b_0000.nii.gz"
    acquisition = load_acquisition(dataset / "simulation/b.json")
    wanted = data_consistent(
        translator.translate_case(CaseFiles("b", (source,))).array[0],
        load_sinogram(dataset / "simulation/b.npz", acquisition),
        acquisition,
        outside=read_volume(source).array[0],
    )
    assert np.array_equal(found.array[0], np.rint(wanted))
    record = json.loads((tmp_path / "consistent/predictions.json").read_text())
    assert record["model"]["data_consistency"] is True


def test_both_ways_are_not_mixed_in_a_folder(translator, dataset, tmp_path):
    predict_folder(translator, dataset / "imagesTs", tmp_path / "out")
    with pytest.raises(OutputError, match="other data_consistency"):
        predicted(translator, dataset, tmp_path / "out")


def test_expected_errors_of_other_predictions_are_left_aside(translator, dataset, models):
    cases = find_cases(dataset / "imagesTs", translator.plan)
    knowing = replace(translator, expected=models.make_expected())
    assert knowing.with_data_consistency(cases).expected is None


def test_sinograms_may_lie_elsewhere(translator, dataset, tmp_path):
    (dataset / "simulation").rename(tmp_path / "measured")
    with pytest.raises(DatasetError, match=r"b\.json: file not found; simulate with --keep-sin"):
        predicted(translator, dataset, tmp_path / "out")
    _, outcome = predicted(translator, dataset, tmp_path / "out", sinograms=tmp_path / "measured")
    assert outcome.predicted == ("b",)


def test_predictions_from_another_sinogram_are_not_kept(translator, dataset, tmp_path, caplog):
    _, outcome = predicted(translator, dataset, tmp_path / "out")
    inputs = json.loads((tmp_path / "out/predictions.json").read_text())["cases"]["b"]["inputs"]
    assert sorted(inputs) == ["b.json", "b.npz", "b_0000.nii.gz"]
    _, outcome = predicted(translator, dataset, tmp_path / "out")
    assert outcome.skipped == ("b",)
    path = dataset / "simulation/b.npz"
    (sinogram,) = np.load(path).values()
    np.savez(path, sinogram * 1.01)
    _, outcome = predicted(translator, dataset, tmp_path / "out")
    assert outcome.failed == ("b",)
    assert "was predicted from other files" in caplog.text


def test_another_scans_record_fails_that_case(translator, dataset, tmp_path, caplog):
    path = dataset / "simulation/b.json"
    data = json.loads(path.read_text())
    data["grid"]["spacing"][1] *= 2
    path.write_text(json.dumps(data))
    _, outcome = predicted(translator, dataset, tmp_path / "out")
    assert outcome.failed == ("b",)
    assert "b.json: not on the grid of the image: spacing" in caplog.text


def test_a_model_of_something_else_than_ct_is_refused(translator):
    target = Normalisation("percentiles", 0.0, 1.0, None, None, 0.0)
    other = replace(translator, configuration=replace(translator.configuration, target=target))
    with pytest.raises(DatasetError, match="is for CT in Hounsfield units"):
        other.with_data_consistency([])


def test_the_command_takes_the_options(home, dataset, tmp_path, capsys):
    roots = [f"--{name}={home / name}" for name in ("raw", "preprocessed", "results")]
    inputs = ["-i", str(dataset / "imagesTs"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    folder = str(dataset / "simulation")
    assert main([*inputs, *roots, "--sinograms", folder]) == 2
    assert "--sinograms needs --data-consistency" in capsys.readouterr().err
    assert main([*inputs, *roots, "--data-consistency", "--sinograms", folder]) == 0
    assert (tmp_path / "out/b.nii.gz").is_file()
