import pytest

from gdmnet.errors import CheckpointError, DatasetError, SettingError
from gdmnet.models.select import ModelChoice, choose_folds, find_model


def test_the_only_finished_model_is_found(tmp_path, models):
    folder = models.make_model(tmp_path)
    models.make_model(tmp_path, objective="gdm", finished=False)
    assert find_model(ModelChoice(), tmp_path) == folder


def test_several_models_are_listed_with_the_options_that_select_each(tmp_path, models):
    models.make_model(tmp_path)
    other = models.make_model(tmp_path, objective="gdm")
    with pytest.raises(CheckpointError) as refusal:
        find_model(ModelChoice(), tmp_path)
    assert "-d 501 -c 3d_fullres --objective gdm " in str(refusal.value)
    assert "-d 501 -c 3d_fullres --objective regression " in str(refusal.value)
    assert find_model(ModelChoice(objective="gdm"), tmp_path) == other


def test_dataset_configuration_and_folds_narrow_the_choice(tmp_path, models):
    first = models.make_model(tmp_path)
    second = models.make_model(tmp_path, {"1": 0.0}, dataset="Dataset502_Other")
    low = models.make_configuration("3d_lowres")
    third = models.make_model(tmp_path, {"2": 0.0}, configuration=low)
    assert find_model(ModelChoice(dataset="502"), tmp_path) == second
    assert find_model(ModelChoice(dataset="Dataset502_Other"), tmp_path) == second
    assert find_model(ModelChoice(configuration="3d_lowres"), tmp_path) == third
    assert find_model(ModelChoice(folds=["0"]), tmp_path) == first
    assert find_model(ModelChoice(dataset="501", configuration="3d_fullres"), tmp_path) == first


def test_options_that_fit_no_model_show_what_there_is(tmp_path, models):
    models.make_model(tmp_path)
    with pytest.raises(CheckpointError, match=r"no finished model fits.*\n  -d 501"):
        find_model(ModelChoice(configuration="3d_lowres"), tmp_path)
    with pytest.raises(DatasetError, match="no dataset 999"):
        find_model(ModelChoice(dataset="999"), tmp_path)


def test_unfinished_models_do_not_count_and_are_named(tmp_path, models):
    models.make_model(tmp_path, finished=False)
    with pytest.raises(CheckpointError, match=r"unfinished: .*regression__3d_fullres.fold_0"):
        find_model(ModelChoice(), tmp_path)


def test_an_empty_results_folder_is_said_to_be_empty(tmp_path):
    with pytest.raises(CheckpointError, match="no finished model; train one"):
        find_model(ModelChoice(), tmp_path / "nowhere")


def test_all_finished_numeric_folds_are_the_default(tmp_path, models):
    folder = models.make_model(tmp_path, {"0": 0.0, "10": 0.0, "2": 0.0, "all": 0.0})
    assert choose_folds(folder, None) == ("0", "2", "10")
    assert choose_folds(folder, ["all"]) == ("all",)
    assert choose_folds(folder, ["2", "0", "2"]) == ("2", "0")


def test_all_is_taken_only_when_asked_for(tmp_path, models):
    folder = models.make_model(tmp_path, {"all": 0.0})
    with pytest.raises(CheckpointError, match="-f all"):
        choose_folds(folder, None)


def test_an_untrained_and_an_unfinished_fold_are_told_apart(tmp_path, models):
    folder = models.make_model(tmp_path, {"0": 0.0})
    models.make_model(tmp_path, {"1": 0.0}, finished=False)
    with pytest.raises(CheckpointError, match="fold 1 is not finished"):
        choose_folds(folder, ["1"])
    with pytest.raises(CheckpointError, match=r"fold 4 is not trained \(finished are: 0\)"):
        choose_folds(folder, ["4"])


def test_a_fold_in_place_of_its_model_is_explained(tmp_path, models):
    folder = models.make_model(tmp_path)
    with pytest.raises(CheckpointError, match="and the fold by -f"):
        choose_folds(folder / "fold_0", None)
    with pytest.raises(CheckpointError, match=f"not a model folder.* its models: {folder.name}"):
        choose_folds(folder.parent, None)
    with pytest.raises(CheckpointError, match="give a model's folder"):
        choose_folds(tmp_path, None)


def test_a_model_that_is_named_leaves_nothing_to_choose(tmp_path, models):
    folder = models.make_model(tmp_path)
    assert find_model(ModelChoice(model=folder, folds=["0"]), tmp_path) == folder
    with pytest.raises(SettingError, match="-m names the model: leave -d and --objective out"):
        find_model(ModelChoice(model=folder, dataset="501", objective="gdm"), tmp_path)
