from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from arguments import roots

from gdmnet import codec
from gdmnet.commands.compare import build_parser, main
from gdmnet.compare import trainings, verdict
from gdmnet.compare.record import Comparison
from gdmnet.data.volume import read_geometry, read_volume, write_volume
from gdmnet.models import checkpoint
from gdmnet.objectives.options import OPTIONS
from gdmnet.training import loop

ROOT = Path(__file__).parents[2]
SHORT = ["--epochs", "2", "--iterations", "2", "--encoder-iterations", "4"]
QUICK = ["--judge-iterations", "2", "-np", "1"]
METHODS = ("gdm", "regression", "regression:perceptual=0.1")


def call(home, *arguments):
    return main(["999", "3d_fullres", *arguments, *QUICK, "--step-size", "1", *roots(home)])


def place(home):
    return home / "results" / "Dataset999_Phantom" / "compare_3d_fullres"


def comparison(home) -> Comparison:
    return codec.load(Comparison, place(home) / "compare.json")


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
        patch.setattr("gdmnet.metrics.frechet.RESAMPLES", 10)
        yield


@pytest.fixture(scope="module")
def compared(prepared, tmp_path_factory):
    """A home in which three methods were compared."""
    home = tmp_path_factory.mktemp("compared") / "home"
    shutil.copytree(prepared, home)
    assert call(home, "--objectives", *METHODS, *SHORT) == 0
    return home


def test_all_methods_are_judged_on_the_same_cases(compared):
    found = comparison(compared)
    assert found.cases_from == "test cases"
    assert found.cases == ("phantom_04", "phantom_05")
    assert found.reference == "gdm"
    assert tuple(found.figures) == METHODS
    for figures in found.figures.values():
        assert tuple(figures.cases) == found.cases
        metrics = {"mae", "psnr", "ssim", "ms_ssim", "sharpness", "histogram_w1"}
        assert metrics <= set(figures.aggregate)
        assert figures.verdict.prediction.frechet.value > 0
        assert figures.seconds > 0
        assert figures.calls >= 1
    assert set(found.against) == set(METHODS[1:])


def test_budget_and_size_are_told_as_they_were(compared):
    found = comparison(compared)
    for facts in found.facts.values():
        assert facts.training_steps == 4
        assert facts.training_seconds > 0
        assert facts.device == "cpu"
        assert facts.command.startswith("gdm_predict -i IN -o OUT -m ")
    assert len({figures.parameters for figures in found.figures.values()}) == 1
    encoders = {name: facts.encoder for name, facts in found.facts.items()}
    assert encoders == {"gdm": "self", "regression": None, "regression:perceptual=0.1": "self"}


def test_variants_of_an_objective_do_not_collide_and_share_the_encoder(compared):
    models = place(compared) / "models"
    runs = {path.parents[3].name: json.loads(path.read_text()) for path in models.rglob("run.json")}
    assert set(runs) == {"gdm", "regression", "regression+perceptual=0.1"}
    weights = {name: runs[name]["options"]["perceptual"] for name in runs}
    assert weights == {"gdm": 0.0, "regression": 0.0, "regression+perceptual=0.1": 0.1}
    assert len(list(models.rglob("encoder.pt"))) == 1
    digests = {run["encoder_sha256"] for run in runs.values()}
    assert len(digests) == 2  # the encoder's, and none for plain regression
    assert not list(compared.glob("results/*/*__*"))


def test_page_and_table_stand_beside_the_record(compared):
    page = (place(compared) / "compare.html").read_text("utf-8")
    text = (place(compared) / "compare.txt").read_text("utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    for name in METHODS:
        assert name in page
        assert name in text
    for number in range(2):  # each case with a panel a method
        (view,) = re.findall(f'id="case-{number}">(.*?)</script>', page, re.S)
        assert view.count('"prediction"') >= len(METHODS)
    assert "equal steps: 2 epochs of 2 steps" in text


def test_doing_it_again_does_nothing_anew(compared, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("was there already")

    for name in ("train_fold", "load_model"):
        monkeypatch.setattr(trainings, name, never)
    monkeypatch.setattr("gdmnet.compare.methods.make_judge", never)
    kept = {
        path: path.stat().st_mtime_ns
        for path in place(compared).rglob("*")
        if path.is_file() and not path.name.startswith("compare.")
    }
    before = comparison(compared)
    assert call(compared, "--objectives", *METHODS) == 0
    assert "everything is trained and predicted already" in capsys.readouterr().out
    after = comparison(compared)
    assert after.figures == before.figures
    assert after.facts == before.facts
    changed = {p.name for p, when in kept.items() if p.stat().st_mtime_ns != when}
    assert changed == {"settings.json"}


def test_a_stopped_comparison_goes_on_where_it_was(home, compared, monkeypatch, capsys):
    arguments = ("--objectives", "regression", *SHORT)
    original = loop._validate

    def stop_in_the_second_epoch(training, batches):
        if (training.folder / "checkpoint_latest.pt").exists():
            raise KeyboardInterrupt
        return original(training, batches)

    monkeypatch.setattr(loop, "_validate", stop_in_the_second_epoch)
    assert call(home, *arguments) == 130
    assert "train regression, fold 0: 2 epochs of 2 steps" in capsys.readouterr().out
    fold = place(home) / "models/regression/Dataset999_Phantom/regression__3d_fullres/fold_0"
    assert (fold / "checkpoint_latest.pt").is_file()
    assert not (fold / "checkpoint_final.pt").is_file()
    monkeypatch.setattr(loop, "_validate", original)
    assert call(home, *arguments) == 0
    ours, theirs = (comparison(h).figures["regression"].cases for h in (home, compared))
    assert [v["mae"] for v in ours.values()] == [v["mae"] for v in theirs.values()]
    # a prediction whose costs were not written down yet is made anew, and only that one
    predictions = place(home) / "predictions/regression"
    costs = json.loads((predictions / "costs.json").read_text())
    lost = costs.pop("phantom_05")
    (predictions / "costs.json").write_text(json.dumps(costs))
    kept = (predictions / "phantom_04.nii.gz").stat().st_mtime_ns
    assert call(home, *arguments) == 0
    again = json.loads((predictions / "costs.json").read_text())["phantom_05"]
    assert again["calls"] == lost["calls"]
    assert (predictions / "phantom_04.nii.gz").stat().st_mtime_ns == kept


def test_a_dry_run_only_lists_what_would_be_done(home, capsys):
    arguments = ("--objectives", "gdm", "flow", "--steps", "flow=1,2", "--dry-run", *SHORT)
    assert call(home, *arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train gdm, fold 0: 2 epochs of 2 steps",
        "train flow, fold 0: 2 epochs of 2 steps",
        "predict gdm: phantom_04, phantom_05",
        "predict flow, 1 step: phantom_04, phantom_05",
        "predict flow, 2 steps: phantom_04, phantom_05",
    ]
    assert not place(home).exists()


def test_without_test_targets_validation_cases_are_judged(home):
    shutil.rmtree(home / "raw/Dataset999_Phantom/targetsTs")
    brief = ("--epochs", "1", "--iterations", "1")
    assert call(home, "--objectives", "regression", "-f", "0", "1", *brief) == 0
    found = comparison(home)
    assert found.cases_from == "validation cases of folds 0, 1"
    assert len(found.cases) == 2
    assert found.reference == "regression"
    for number, case in zip("01", found.cases, strict=True):
        run = next(place(home).rglob(f"fold_{number}/run.json"))
        assert case in json.loads(run.read_text())["validation_cases"]
        made = place(home) / f"predictions/regression/fold_{number}/{case}.nii.gz"
        source = home / f"raw/Dataset999_Phantom/imagesTr/{case}_0000.nii.gz"
        assert read_geometry(made) == read_geometry(source)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--objectives", "telepathy"), "objective 'telepathy' is unknown"),
        (("--objectives", "gdm:colour=blue"), "no setting 'colour'"),
        (("--objectives", "gdm", "--steps", "gdm=4"), "--steps gdm: calls its network once"),
        (("--objectives", "gdm", "--steps", "regression=4"), "is not compared"),
        (("--objectives", "gdm", "--steps", "4"), "write NAME=1,4,16"),
        (("--objectives", "flow", "--steps", "flow=10001"), "at most 10000"),
        (("--objectives", "gdm", "-f", "9"), "fold 9"),
        (("--objectives", "gdm", "--device", "cuda:77"), "--device cuda:77"),
        (("-m", "gdm__3d_fullres"), "leave the configuration out"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_two(prepared, capsys, arguments, words):
    assert words in refused(capsys, prepared, *arguments)
    assert not place(prepared).exists()


def test_training_options_need_a_configuration(prepared, capsys):
    for option in (["--epochs", "3"], ["--objectives", "gdm"], ["--dry-run"]):
        assert main(["999", *option, *roots(prepared)]) == 2
        assert f"{option[0]}: is about trainings" in capsys.readouterr().err


def test_the_how_to_works(compared):
    page = (ROOT / "documentation/how-to/compare.md").read_text("utf-8")
    (line,) = re.findall(r"^```bash\n(.*?)\n```$", page, re.M | re.S)
    program, dataset, *arguments = shlex.split(line)
    assert (program, dataset) == ("gdm_compare", "501")
    before = comparison(compared)
    shorter = ["--epochs", "2"]  # what `compared` has trained and predicted
    assert main(["999", *arguments, *shorter, *QUICK, *roots(compared)]) == 0
    after = comparison(compared).figures
    assert list(after) == ["gdm", "regression"]
    for name, figures in after.items():
        assert figures.verdict == before.figures[name].verdict


def test_objectives_with_a_sampler_join_later_with_several_numbers_of_steps(compared):
    assert call(compared, "--objectives", "regression", "flow", "--steps", "flow=1,2") == 0
    found = comparison(compared)
    assert found.reference == "regression"
    assert tuple(found.figures) == ("regression", "flow, 1 step", "flow, 2 steps")
    calls = [figures.calls for figures in found.figures.values()]
    assert calls[1] == calls[0]
    assert calls[2] == 2 * calls[0]
    assert found.facts["flow, 2 steps"].command.endswith("--steps 2")
    assert len(list((place(compared) / "models/flow").rglob("checkpoint_final.pt"))) == 1
    more = found.figures["flow, 1 step"].parameters / found.figures["regression"].parameters
    assert 1 < more < 1.5


def test_a_comparison_goes_on_as_it_began(compared, capsys):
    said = refused(capsys, compared, "--objectives", "gdm", "--epochs", "7")
    assert "epochs is 2 there, not 7" in said
    assert "encoder is self (4 steps)" in refused(capsys, compared, "--encoder", "random")


def test_a_corrected_target_is_scored_and_judged_anew(compared):
    before = comparison(compared).figures["regression"]
    target = next((compared / "raw/Dataset999_Phantom/targetsTs").iterdir())
    volume = read_volume(target)
    write_volume(target, replace(volume, array=np.where(volume.array > -500, 500, volume.array)))
    assert call(compared, "--objectives", "regression") == 0
    after = comparison(compared).figures["regression"]
    write_volume(target, volume)
    assert after.aggregate["mae"]["mean"] > before.aggregate["mae"]["mean"] + 50
    assert after.verdict.prediction != before.verdict.prediction


def test_what_a_prediction_comes_from_was_changed(compared, capsys):
    fold = "models/regression/Dataset999_Phantom/regression__3d_fullres/fold_0"
    weights = place(compared) / fold / "checkpoint_final.pt"
    scan = next((compared / "raw/Dataset999_Phantom/imagesTs").glob("phantom_04*"))
    given = {path: path.read_bytes() for path in (scan, weights)}
    assert call(compared, "--objectives", "regression") == 0
    before = comparison(compared).figures["regression"].cases["phantom_05"]["mae"]
    volume = read_volume(scan)
    write_volume(scan, replace(volume, array=volume.array + 1))
    assert left_of_regression(compared, capsys) == ["predict regression: phantom_04"]
    state = checkpoint.load(weights)
    checkpoint.save(weights, {**state, "ema": {k: 1.01 * v for k, v in state["ema"].items()}})
    assert left_of_regression(compared, capsys) == ["predict regression: phantom_04, phantom_05"]
    assert call(compared, "--objectives", "regression") == 0
    assert comparison(compared).figures["regression"].cases["phantom_05"]["mae"] != before
    for path, data in given.items():
        path.write_bytes(data)
    assert call(compared, "--objectives", "regression") == 0
    assert comparison(compared).figures["regression"].cases["phantom_05"]["mae"] == before


def left_of_regression(home, capsys) -> list[str]:
    capsys.readouterr()
    assert call(home, "--objectives", "regression", "--dry-run") == 0
    return capsys.readouterr().out.splitlines()


def test_another_judge_gives_every_verdict_anew(compared):
    before = comparison(compared)
    arguments = ["999", "3d_fullres", "--objectives", "regression", "--judge-iterations", "3"]
    assert main([*arguments, "-np", "1", *roots(compared)]) == 0
    after = comparison(compared).figures["regression"].verdict
    assert "3 steps on" in after.judge
    assert after.prediction != before.figures["regression"].verdict.prediction


def test_all_objectives_are_the_default():
    parser = build_parser()
    assert not hasattr(parser.parse_args(["999", "3d_fullres"]), "objectives")
    assert ", ".join(OPTIONS) in " ".join(parser.format_help().split())
