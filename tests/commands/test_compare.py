from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from arguments import roots

from gdmnet import codec
from gdmnet.commands import compare
from gdmnet.commands.compare import main
from gdmnet.compare import verdict, work
from gdmnet.compare.study import Study
from gdmnet.data.volume import read_geometry, read_volume
from gdmnet.objectives.build import OBJECTIVES
from gdmnet.training import fold, loop

ROOT = Path(__file__).parents[2]
SHORT = ["--epochs", "2", "--iterations", "2", "--encoder-iterations", "4"]
QUICK = ["--judge-iterations", "2", "--step-size", "1", "-np", "1"]
METHODS = ("gdm", "regression", "regression:perceptual=0.1")


def call(home, *arguments):
    return main(["999", "3d_fullres", *arguments, *QUICK, *roots(home)])


def place(home):
    return home / "results" / "Dataset999_Phantom" / "compare_3d_fullres"


def study(home) -> Study:
    return codec.load(Study, place(home) / "compare.json")


def refused(capsys, home, *arguments) -> str:
    assert call(home, *arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    return errors[0]


@pytest.fixture(scope="module", autouse=True)
def _a_quick_verdict():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "N_PATCHES", 32)
        patch.setattr(verdict, "FEWEST_A_SUBJECT", 16)
        yield


@pytest.fixture(scope="module")
def compared(prepared, tmp_path_factory):
    """A home in which three methods were compared on a slab and on whole volumes."""
    home = tmp_path_factory.mktemp("compared") / "home"
    shutil.copytree(prepared, home)
    assert call(home, "--objectives", *METHODS, "--slab", "6", *SHORT) == 0
    return home


def test_all_methods_are_judged_on_the_same_cases(compared):
    found = study(compared)
    assert found.held_out == "test cases"
    assert found.cases == ("phantom_04", "phantom_05")
    assert found.reference == "gdm"
    assert list(found.scopes) == ["slab", "volume"]
    for scope in found.scopes.values():
        assert tuple(scope.methods) == METHODS
        for figures in scope.methods.values():
            assert tuple(figures.cases) == found.cases
            assert {"mae", "psnr", "ssim", "ms_ssim", "sharpness", "histogram_w1"} <= set(
                figures.aggregate
            )
            assert figures.verdict.prediction.frechet.value > 0
            assert figures.seconds > 0
        assert set(scope.against) == set(METHODS[1:])
    slab, whole = (scope.methods["gdm"].calls for scope in found.scopes.values())
    assert 1 <= slab < whole


def test_budget_and_size_are_told_as_they_were(compared):
    found = study(compared)
    for facts in found.methods.values():
        assert facts.training_steps == 4
        assert facts.training_seconds > 0
        assert facts.calls_a_window == 1
        assert facts.device == "cpu"
    assert len({facts.parameters for facts in found.methods.values()}) == 1
    encoders = {name: facts.encoder for name, facts in found.methods.items()}
    assert encoders == {"gdm": "self", "regression": None, "regression:perceptual=0.1": "self"}
    assert set(found.encoder_seconds) == {"0"}


def test_variants_of_an_objective_do_not_collide_and_share_the_encoder(compared):
    models = place(compared) / "models"
    runs = {path.parents[3].name: json.loads(path.read_text()) for path in models.rglob("run.json")}
    assert set(runs) == {"gdm", "regression", "regression+perceptual=0.1"}
    assert runs["regression"]["options"] == {}
    assert runs["regression+perceptual=0.1"]["options"] == {"perceptual": 0.1}
    assert len(list(models.rglob("encoder.pt"))) == 1
    digests = {run["encoder_sha256"] for run in runs.values()}
    assert len(digests) == 2  # the encoder's, and none for plain regression
    assert not list(compared.glob("results/*/*__*"))


def test_the_slab_is_the_middle_of_the_volume_and_predicted_alone(compared):
    raw = compared / "raw/Dataset999_Phantom"
    whole = read_volume(raw / "targetsTs/phantom_04.nii.gz")
    first = (whole.geometry.shape[0] - 6) // 2
    target = read_volume(place(compared) / "slab6/targets/phantom_04.nii.gz")
    assert np.array_equal(target.array, whole.array[:, first : first + 6])
    for method in ("gdm", "regression+perceptual=0.1"):
        home = place(compared) / "predictions" / method
        assert read_geometry(home / "slab6/phantom_04.nii.gz") == target.geometry
        assert read_geometry(home / "volume/phantom_04.nii.gz") == whole.geometry
    assert any("translated the slab alone" in note for note in study(compared).notes)


def test_page_and_table_stand_beside_the_record(compared):
    page = (place(compared) / "compare.html").read_text("utf-8")
    text = (place(compared) / "compare.md").read_text("utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    for name in METHODS:
        assert name in page
        assert name in text
    assert page.count("<h3>Worst case: ") == page.count("<h3>Best case: ") == 1
    assert "equal steps: 2 epochs of 2 steps" in text


def test_doing_it_again_does_nothing_anew(compared, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("was there already")

    for module, name in (
        (fold, "_train_in_processes"),
        (work, "load_model"),
        (work, "train_fold_encoder"),
    ):
        monkeypatch.setattr(module, name, never)
    kept = {
        path: path.stat().st_mtime_ns
        for path in place(compared).rglob("*")
        if path.is_file() and not path.name.startswith("compare.")
    }
    before = study(compared)
    assert call(compared, "--objectives", *METHODS, "--slab", "6") == 0
    assert "everything is trained and predicted already" in capsys.readouterr().out
    after = study(compared)
    assert after.scopes == before.scopes
    assert after.methods == before.methods
    changed = {p.name for p, when in kept.items() if p.stat().st_mtime_ns != when}
    assert changed == {"settings.json"}


def test_a_stopped_comparison_goes_on_where_it_was(home, compared, monkeypatch, capsys):
    arguments = ("--objectives", "regression", "--slab", "6", *SHORT)
    original = loop._validate

    def stop_in_the_second_epoch(training, batches):
        if (training.folder / "checkpoint_latest.pt").exists():
            raise KeyboardInterrupt
        return original(training, batches)

    monkeypatch.setattr(loop, "_validate", stop_in_the_second_epoch)
    assert call(home, *arguments) == 130
    said = capsys.readouterr().out
    assert said.index("estimated time: ") < said.index("training regression")
    fold = place(home) / "models/regression/Dataset999_Phantom/regression__3d_fullres/fold_0"
    assert (fold / "checkpoint_latest.pt").is_file()
    assert not (fold / "checkpoint_final.pt").is_file()
    monkeypatch.setattr(loop, "_validate", original)
    assert call(home, *arguments) == 0
    ours, theirs = (study(h).scopes["slab"].methods["regression"].cases for h in (home, compared))
    assert [v["mae"] for v in ours.values()] == [v["mae"] for v in theirs.values()]
    # a prediction whose costs were not written down yet is made anew, and only that one
    slab = place(home) / "predictions/regression/slab6"
    costs = json.loads((slab / "costs.json").read_text())
    lost = costs["cases"].pop("phantom_05")
    (slab / "costs.json").write_text(json.dumps(costs))
    kept = (slab / "phantom_04.nii.gz").stat().st_mtime_ns
    assert call(home, *arguments) == 0
    again = json.loads((slab / "costs.json").read_text())["cases"]["phantom_05"]
    assert again["calls"] == lost["calls"]
    assert (slab / "phantom_04.nii.gz").stat().st_mtime_ns == kept


def test_a_dry_run_only_tells_the_time(home, capsys):
    assert call(home, "--objectives", "regression", "--minutes", "0.5", "--dry-run") == 0
    said = capsys.readouterr().out
    steps, seconds = re.search(r"regression +(\d+) steps at ([\d.e-]+) s: \d+ s", said).groups()
    assert 0 < int(steps) * float(seconds) < 40
    assert "estimated time: " in said
    assert not place(home).exists()


def test_without_test_targets_validation_cases_are_judged(home):
    shutil.rmtree(home / "raw/Dataset999_Phantom/targetsTs")
    folds = ("--folds", "0", "1")
    brief = ("--epochs", "1", "--iterations", "1")
    assert call(home, "--objectives", "regression", *folds, *brief) == 0
    found = study(home)
    assert found.held_out == "validation cases of folds 0, 1"
    assert len(found.cases) == 2
    assert found.reference == "regression"
    for number, case in zip("01", found.cases, strict=True):
        run = next(place(home).rglob(f"fold_{number}/run.json"))
        assert case in json.loads(run.read_text())["validation_cases"]
        made = place(home) / f"predictions/regression/volume/fold_{number}/{case}.nii.gz"
        assert made.is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--objectives", "telepathy"), "objective 'telepathy' is unknown"),
        (("--objectives", "gdm:colour=blue"), "there is no setting 'colour'"),
        (("--objectives", "gdm:drift_ratio=-1"), "objective gdm: drift_ratio must be at least 0"),
        (("--objectives", "gdm:drift_ratio"), "is not NAME=VALUE"),
        (("--objectives", "gdm", "--steps", "gdm=4"), "--steps gdm: calls its network once"),
        (("--objectives", "gdm", "--steps", "regression=4"), "is not compared"),
        (("--objectives", "gdm", "--steps", "4"), "write NAME=1,4,16"),
        (("--objectives", "flow", "--steps", "flow=10001"), "takes 1 to 10000"),
        (("--objectives", "gdm", "--folds", "9"), "fold 9"),
        (("--objectives", "gdm", "--device", "cuda:77"), "--device cuda:77"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_two(prepared, capsys, arguments, words):
    assert words in refused(capsys, prepared, *arguments)
    assert not place(prepared).exists()


def test_the_how_to_works(compared, capsys):
    page = (ROOT / "documentation/how-to/compare.md").read_text("utf-8")
    (line,) = re.findall(r"^```bash\n(.*?)\n```$", page, re.M | re.S)
    program, dataset, *arguments = shlex.split(line)
    assert (program, dataset) == ("gdm_compare", "501")
    before = study(compared)
    shorter = ["--epochs", "2", "--slab", "6"]  # what `compared` has trained and predicted
    assert main(["999", *arguments, *shorter, *QUICK, *roots(compared)]) == 0
    after = study(compared).scopes["slab"].methods
    assert list(after) == ["gdm", "regression"]
    for name, figures in after.items():
        assert figures.verdict == before.scopes["slab"].methods[name].verdict


def test_objectives_with_a_sampler_join_later_with_several_numbers_of_steps(compared):
    arguments = ("--objectives", "regression", "flow", "--steps", "flow=1,2", "--slab", "6")
    assert call(compared, *arguments) == 0
    found = study(compared)
    assert found.reference == "regression"
    slab, whole = (scope.methods for scope in found.scopes.values())
    assert tuple(slab) == ("regression", "flow, 1 step", "flow, 2 steps")
    assert tuple(whole) == ("regression",)
    calls = [slab[name].calls for name in slab]
    assert calls[1] == calls[0]
    assert calls[2] == 2 * calls[0]
    assert [found.methods[name].calls_a_window for name in slab] == [1, 1, 2]
    assert found.methods["flow, 1 step"].steps == 1
    assert len(list((place(compared) / "models/flow").rglob("checkpoint_final.pt"))) == 1
    more = found.methods["flow, 1 step"].parameters / found.methods["regression"].parameters
    assert 1 < more < 1.5


def test_a_comparison_goes_on_as_it_began(compared, capsys):
    said = refused(capsys, compared, "--objectives", "gdm", "--epochs", "7")
    assert "epochs is 2 there, not 7" in said
    assert "minutes is none there" in refused(capsys, compared, "--minutes", "3")


def test_all_objectives_are_the_default():
    parser = compare.build_parser()
    assert parser.parse_args(["999", "3d_fullres"]).objectives is None
    assert ", ".join(OBJECTIVES) in " ".join(parser.format_help().split())
