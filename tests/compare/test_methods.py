import re
import shlex
from dataclasses import replace

import numpy as np
import pytest

from gdmnet import codec, folders
from gdmnet.commands import predict
from gdmnet.commands.compare import main
from gdmnet.compare.methods import find_held_out
from gdmnet.compare.record import Comparison
from gdmnet.compare.tables import as_text
from gdmnet.data.case import Volume
from gdmnet.data.volume import write_volume
from gdmnet.errors import DatasetError
from gdmnet.folders import Roots
from gdmnet.plan import Plan, Run

pytestmark = pytest.mark.usefixtures("few_drawings")
DATASET = "Dataset501_Test"
CASES = ("a", "b", "c", "d")
SHAPE = (7, 12, 14)


class Place:
    """Raw targets, and models that make known errors on them."""

    def __init__(self, home, models):
        self.home, self.models = home, models
        self.roots = Roots(home / "raw", home / "preprocessed", home / "results")
        self.raw = self.roots.raw / DATASET
        self.truths = {name: models.make_ct(SHAPE, seed=i) for i, name in enumerate(CASES)}
        for name, truth in self.truths.items():
            self.write(self.raw / "imagesTr" / f"{name}_0000.nii.gz", truth)
            self.write(self.raw / "targetsTr" / f"{name}.nii.gz", truth)
        codec.save(
            {
                "channel_names": {"0": "MR"},
                "target_name": "CT",
                "file_ending": ".nii.gz",
                "numTraining": len(CASES),
            },
            self.raw / "dataset.json",
        )

    def write(self, path, array, *, integer=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        geometry = self.models.make_geometry(array.shape)
        write_volume(path, Volume(array[None].astype(np.float32), geometry), integer=integer)

    def model(self, spoil, objective="gdm", *, folds=None, configuration="3d_fullres"):
        """A model whose predictions are `spoil(truth, case)`; folds: name -> its cases."""
        folds = {"0": CASES} if folds is None else folds
        made = self.models.make_configuration(configuration)
        folder = self.models.make_model(
            self.roots.results, dict.fromkeys(folds, 0.0), objective=objective, configuration=made
        )
        for fold, cases in folds.items():
            home = folders.fold_folder(folder, fold)
            unseen = self.models.make_run(made, fold, objective)
            unseen = replace(unseen, training_cases=("z",), validation_cases=tuple(cases))
            codec.save(unseen, home / folders.RUN_JSON)
            for case in cases:
                image = spoil(self.truths[case], case)
                self.write(home / "validation" / f"{case}.nii.gz", image)
        return folder

    def edit_plan(self, folder, **target):
        path = folder / folders.PLAN_JSON
        plan = codec.load(Plan, path)
        (name,) = plan.configurations
        configuration = plan.configurations[name]
        changed = replace(configuration, target=replace(configuration.target, **target))
        codec.save(replace(plan, configurations={name: changed}), path)

    def call(self, *options):
        roots = [f"--{name}={self.home / name}" for name in ("raw", "preprocessed", "results")]
        return main(["501", "-np", "1", "--judge-iterations", "1", *roots, *options])

    def compare(self, *options) -> Comparison:
        assert self.call(*options) == 0
        return codec.load(Comparison, self.roots.results / DATASET / "compare/compare.json")


@pytest.fixture(autouse=True)
def _a_quick_verdict(monkeypatch):
    monkeypatch.setattr("gdmnet.compare.verdict.N_PATCHES", 16)
    monkeypatch.setattr("gdmnet.compare.verdict.FEWEST_A_SUBJECT", 8)
    monkeypatch.setattr("gdmnet.metrics.frechet.RESAMPLES", 10)


@pytest.fixture
def place(tmp_path, models):
    return Place(tmp_path, models)


def offset(hu):
    return lambda truth, case: truth + hu * (1 + CASES.index(case) / 10)


def blur(truth, case):
    """Small errors, but less detail."""
    return 0.9 * truth + 0.05 * (np.roll(truth, 1, 0) + np.roll(truth, -1, 0))


def mirror(truth, case):
    """All the detail, but on the wrong side."""
    return truth[:, :, ::-1]


def scaled(gain, shift):
    return lambda truth, case: gain * truth + shift


def test_the_best_by_each_criterion_is_found_with_its_command(place, capsys):
    fine = place.model(offset(5), "gdm")
    place.model(offset(30), "regression")
    found = place.compare()
    out = capsys.readouterr().out
    assert found.cases == CASES
    assert found.units == "HU"
    assert found.match_intensity is None
    assert {criterion: best.name for criterion, best in found.best.items()} == {
        "fidelity": "gdm__3d_fullres",
        "plausibility": "gdm__3d_fullres",
    }
    assert "best by fidelity: gdm__3d_fullres" in out
    command = found.facts["gdm__3d_fullres"].command
    assert command == shlex.join(["gdm_predict", "-i", "IN", "-o", "OUT", "-m", str(fine)])
    assert command in out
    paired = found.best["fidelity"].against["regression__3d_fullres"]
    shares = [1 + i / 10 for i in range(4)]
    assert paired.difference == pytest.approx(-25 * np.mean(shares), rel=1e-3)
    assert paired.p == paired.least_p == 0.125
    against = found.against["regression__3d_fullres"]
    assert against["mae"].difference == -paired.difference
    assert against["psnr"].difference < 0


def test_the_printed_command_works(place, models):
    place.model(offset(5), "gdm")
    place.model(offset(30), "regression", folds={"0": CASES, "all": CASES})
    found = place.compare("-m", "regression__*")
    models.write_ct(place.home / "in/a_0000.nii.gz")
    _, *words = shlex.split(found.facts[found.best["fidelity"].name].command)
    words = [
        {"IN": str(place.home / "in"), "OUT": str(place.home / "out")}.get(w, w) for w in words
    ]
    assert predict.main([*words, "--device", "cpu"]) == 0
    assert (place.home / "out/a.nii.gz").is_file()


def test_a_blurred_and_a_detailed_model_win_one_criterion_each(place):
    place.model(blur, "regression")
    place.model(mirror, "gdm")
    best = place.compare().best
    assert best["fidelity"].name == "regression__3d_fullres"
    assert best["plausibility"].name == "gdm__3d_fullres"


def test_the_page_shows_every_model_beside_the_target(place):
    place.model(offset(5), "gdm")
    place.model(offset(30), "regression")
    place.compare()
    page = (place.roots.results / DATASET / "compare/compare.html").read_text("utf-8")
    (view,) = re.findall(r'id="case-0">(.*?)</script>', page, re.S)
    for name in ("gdm__3d_fullres", "regression__3d_fullres", "target", "source"):
        assert name in view


def test_another_convention_can_be_asked_for(place):
    place.model(offset(5), "gdm")
    found = place.compare("--convention", "synthrad2025")
    assert found.convention == "synthrad2025"
    assert found.figures["gdm__3d_fullres"].cases["b"]["mae"] == pytest.approx(5.5, rel=1e-3)
    assert found.facts["gdm__3d_fullres"].folds == ("0",)


def test_targets_without_a_unit_are_matched_on_all_sides(place, capsys):
    for objective, spoil in (("gdm", scaled(3, 100)), ("regression", blur)):
        place.edit_plan(place.model(spoil, objective), scheme="percentiles")
    found = place.compare()
    assert found.units == "%"
    assert found.match_intensity == "linear"
    assert found.best["fidelity"].name == "gdm__3d_fullres"
    assert found.figures["gdm__3d_fullres"].cases["a"]["fidelity"] < 0.01
    blurred = found.figures["regression__3d_fullres"].cases["a"]
    assert blurred["fidelity"] == pytest.approx(100 * blurred["mae"] / blurred["data_range"])
    assert "percentiles 0.5 to 99.5" in capsys.readouterr().out
    assert place.compare("--match-intensity", "none").match_intensity is None


def test_configurations_are_compared_on_the_source_grid(place):
    place.model(offset(5), configuration="3d_lowres")
    place.model(offset(30), configuration="3d_fullres")
    assert place.compare().best["fidelity"].name == "gdm__3d_lowres"


def test_only_common_cases_count_and_that_is_said(place, capsys):
    place.model(offset(5), "gdm", folds={"0": "ab", "1": "cd"})
    place.model(offset(4), "regression", folds={"0": "ab"})
    found = place.compare()
    out = capsys.readouterr().out
    assert "2 of its 4 cases are left out" in out
    assert "p cannot be below 0.5" in out
    assert found.cases == ("a", "b")
    assert found.best["fidelity"].name == "regression__3d_fullres"


def test_models_without_a_common_case_cannot_be_compared(place, capsys):
    place.model(offset(5), "gdm", folds={"0": "ab"})
    place.model(offset(4), "regression", folds={"1": "cd"})
    assert place.call() == 2
    error = capsys.readouterr().err
    assert "no case was predicted by all models" in error
    assert "gdm__3d_fullres has folds 0; regression__3d_fullres has folds 1" in error
    assert place.call("-f", "0") == 0
    assert "regression__3d_fullres: left out" in capsys.readouterr().out


def test_the_fold_all_and_validation_on_training_cases_are_left_out(place, capsys):
    folder = place.model(offset(5), folds={"0": "ab", "1": "cd", "all": CASES})
    path = folders.fold_folder(folder, "1") / folders.RUN_JSON
    seen = replace(codec.load(Run, path), training_cases=("c", "d"))
    codec.save(seen, path)
    found = place.compare()
    out = capsys.readouterr().out
    assert "fold all was validated on its training cases" in out
    assert "fold 1 was validated on its training cases" in out
    assert found.cases == ("a", "b")
    assert found.facts["gdm__3d_fullres"].command.endswith(" -f 0")


def test_a_single_model_is_reported(place, capsys):
    place.model(offset(5))
    found = place.compare()
    assert "there is only one method" in capsys.readouterr().out
    assert found.best["fidelity"].against == {}


def test_equal_models_do_not_differ(place, capsys):
    place.model(offset(5), "gdm")
    place.model(offset(5), "regression")
    found = place.compare()
    out = capsys.readouterr().out
    assert "+0 HU [+0, +0] (no case differs): they do not differ significantly" in out
    assert found.winners == {}


def test_six_cases_that_agree_make_a_significant_difference(tmp_path, models, monkeypatch):
    monkeypatch.setitem(Place.__init__.__globals__, "CASES", tuple("abcdef"))
    place = Place(tmp_path, models)
    place.model(offset(5), "gdm", folds={"0": "abcdef"})
    place.model(offset(30), "regression", folds={"0": "abcdef"})
    found = place.compare()
    assert found.best["fidelity"].against["regression__3d_fullres"].is_significant
    assert found.winners["fidelity"] == "gdm__3d_fullres"
    assert not any("cannot be below" in note for note in found.notes)
    text = as_text(found)
    assert "(p = 0.031)\n" in text
    assert "not differ" not in text.split("best by plausibility")[0]


def test_given_masks_are_where_errors_count(place):
    for name in CASES:
        mask = np.zeros(SHAPE)
        mask[:, :, 7:] = 1
        place.write(place.raw / "masksTr" / f"{name}.nii.gz", mask)
    place.model(lambda truth, case: truth + np.where(np.arange(14) < 7, 100, 1))
    values = place.compare().figures["gdm__3d_fullres"].cases["a"]
    assert values["mae"] == pytest.approx(1, rel=1e-3)


def test_a_collapsed_model_loses_but_disturbs_nothing(place):
    place.model(lambda truth, case: np.zeros(SHAPE), "gdm")
    place.model(offset(5), "regression")
    found = place.compare()
    assert found.best["fidelity"].name == "regression__3d_fullres"
    assert found.best["plausibility"].name == "regression__3d_fullres"


def test_a_missing_validation_prediction_is_told_with_its_remedy(place, capsys):
    folder = place.model(offset(5))
    (folder / "fold_0/validation/b.nii.gz").unlink()
    found = place.compare()
    out = capsys.readouterr().out
    assert "lacks predictions of b; finish it with gdm_train Dataset501_Test 3d_fullres 0" in out
    assert found.cases == ("a", "c", "d")


def test_the_choice_is_narrowed_by_options(place):
    place.model(offset(5), "gdm")
    place.model(offset(4), "regression")
    place.model(offset(3), "gdm", configuration="3d_lowres")
    names = {"gdm__3d_fullres", "gdm__3d_lowres", "regression__3d_fullres"}
    assert set(place.compare().figures) == names
    assert list(place.compare("-m", "gdm__3d_fullres").figures) == ["gdm__3d_fullres"]
    assert set(place.compare("-m", "gdm__*").figures) == names - {"regression__3d_fullres"}


def test_what_is_not_there_is_one_line_and_status_two(place, capsys):
    place.model(offset(5))
    (place.raw / "targetsTr/b.nii.gz").unlink()
    for options, text in (
        (("-m", "telepathy__*"), "no finished model with validation predictions"),
        (("-f", "7"), "no finished model with validation predictions"),
        (("--raw", str(place.home)), "name the place by --raw"),
        ((), "no target of b"),
    ):
        assert place.call(*options) == 2
        lines = capsys.readouterr().err.splitlines()
        assert text in lines[-1]
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]


def test_a_target_on_another_grid_is_no_figure_but_a_line(place, capsys):
    place.model(offset(5))
    wider = replace(place.models.make_geometry(SHAPE), spacing=(9.0, 8.0, 7.0))
    target = Volume(place.truths["b"][None].astype(np.float32), wider)
    write_volume(place.raw / "targetsTr/b.nii.gz", target)
    assert place.call() == 2
    assert "validation/b.nii.gz is not on the grid of" in capsys.readouterr().err


def test_a_judge_without_any_real_image_is_one_line(place):
    for path in (place.raw / "targetsTr").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="from which the judge learns"):
        find_held_out(place.raw, place.home / "splits_final.json", ["0"])


def test_a_case_that_two_folds_validate_counts_once(place, capsys):
    folder = place.model(offset(5), folds={"0": "ab", "1": "bc"})
    place.write(folder / "fold_1/validation/b.nii.gz", place.truths["b"] + 500)
    found = place.compare()
    assert "fold 1 validates b again; the first one counts" in capsys.readouterr().out
    assert found.figures["gdm__3d_fullres"].cases["b"]["mae"] < 10


def test_a_folder_of_another_name_than_its_plan_is_refused(place, capsys):
    folder = place.model(offset(5))
    folder.rename(folder.with_name("gdm__3d_other"))
    assert place.call() == 2
    assert "has no configuration 3d_other" in capsys.readouterr().err


def test_the_output_goes_where_it_is_asked_for(place):
    place.model(offset(5))
    assert place.call("-o", str(place.home / "chosen")) == 0
    assert (place.home / "chosen/compare.html").is_file()
    assert not (place.roots.results / DATASET / "compare").exists()
