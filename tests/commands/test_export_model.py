import pytest

from gdmnet.commands import export_model, install_model, predict


@pytest.fixture
def place(tmp_path, models):
    models.make_model(tmp_path / "results", {"0": 0.0, "1": 100.0})
    models.make_model(tmp_path / "results", {"0": 50.0}, objective="gdm")
    return tmp_path


def roots(place, results="results"):
    names = {"raw": "raw", "preprocessed": "preprocessed", "results": results}
    return [f"--{root}={place / name}" for root, name in names.items()]


def export(place, *options):
    return export_model.main(["-o", str(place / "model.zip"), *roots(place), *options])


def test_a_model_goes_to_the_clinic_and_predicts_there(place, models, capsys):
    options = ["-d", "501", "--objective", "regression", "-f", "1", "--licence", "CC0"]
    assert export(place, *options) == 0
    assert "Dataset501_Test, regression, 3d_fullres, folds 1;" in capsys.readouterr().out
    clinic = roots(place, "clinic")
    assert install_model.main([str(place / "model.zip"), *clinic]) == 0
    shown = capsys.readouterr()
    assert "licence of the weights: CC0" in shown.out
    assert shown.err == ""
    models.write_ct(place / "in" / "a_0000.nii.gz")
    outputs = []
    for name, home, more in (
        ("here", roots(place), ["--objective", "regression", "-f", "1"]),
        ("there", clinic, []),
    ):
        arguments = ["-i", str(place / "in"), "-o", str(place / name), "--device", "cpu"]
        assert predict.main([*arguments, *home, *more]) == 0
        outputs.append((place / name / "a.nii.gz").read_bytes())
    assert outputs[0] == outputs[1]


def test_several_models_are_listed(place, capsys):
    assert export(place) == 2
    assert "choose one" in capsys.readouterr().err
    assert not (place / "model.zip").exists()
    folder = place / "results/Dataset501_Test/gdm__3d_fullres"
    assert export(place, "-m", str(folder), "--with-best") == 0
    assert "gdm, 3d_fullres, folds 0;" in capsys.readouterr().out


def test_refusals_are_one_line_with_status_two(place, capsys):
    assert export(place, "--objective", "gdm") == 0
    assert export(place, "--objective", "gdm") == 2
    assert "exists already" in capsys.readouterr().err
    assert export(place, "--objective", "gdm", "--overwrite") == 0
    assert install_model.main([str(place / "model.zip"), *roots(place)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "there already" in line
    assert install_model.main([str(place / "model.zip"), *roots(place), "--overwrite"]) == 0


def test_a_dataset_of_the_same_number_is_told(place, capsys):
    assert export(place, "--objective", "gdm") == 0
    (place / "clinic" / "Dataset501_Other").mkdir(parents=True)
    assert install_model.main([str(place / "model.zip"), *roots(place, "clinic")]) == 0
    assert "by -d Dataset501_Test" in capsys.readouterr().err
