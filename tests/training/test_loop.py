import dataclasses
import json
import logging
import math

import pytest
import torch
from torch import nn

from gdmnet.errors import CheckpointError, TrainingError
from gdmnet.files import whole_folder
from gdmnet.folders import BEST, FINAL, LATEST
from gdmnet.models import checkpoint
from gdmnet.objectives.base import Descent, Inputs, Objective
from gdmnet.plan import Recipe
from gdmnet.training import log, loop
from gdmnet.training.batches import Batches
from gdmnet.training.loop import fit
from gdmnet.training.patch_validation import PatchQuality, judge_patches
from gdmnet.training.progress import INTERNALS_PNG, PROGRESS_PNG

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=4, iterations=3, validation_patches=4, learning_rate=1e-2, seed=5)


class NoisyL1(Objective):
    """L1 with noise from the step's generator, a state and an optimiser of its own."""

    def __init__(self, spoil=None):
        self.critic = nn.Linear(1, 1)
        nn.init.constant_(self.critic.weight, 0.5)
        nn.init.zeros_(self.critic.bias)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr=0.1)
        self.calls = 0
        self.spoil = spoil or (lambda call: 1.0)
        self.seen = []

    def modules(self):
        return {"critic": self.critic}

    def optimizers(self):
        return {"critic": self.optimizer}

    def descend(self, generator, batch, rng):
        factor = self.spoil(self.calls)
        self.calls += 1
        noise = torch.randn(batch.source.shape, generator=rng)
        output = generator(batch.source + 0.1 * noise)
        error = (output - batch.target) * batch.mask
        self.optimizer.zero_grad()
        self.critic(error.detach().abs().mean().reshape(1, 1)).square().sum().backward()
        self.optimizer.step()
        gradient = error.detach().sign() / batch.mask.sum() * factor
        fidelity = float(error.detach().abs().sum() / batch.mask.sum())
        return Descent(output, gradient, {"fidelity": fidelity + self.critic.weight.item()})

    def translate(self, generator, source, noise):
        assert noise is None
        return generator(source)

    def on_validation(self, metrics):
        self.seen.append(metrics)


@pytest.fixture
def start(make_noise_case, make_configuration, make_generator, tmp_path):
    """Call fit with the same fresh parts every time."""
    configuration = make_configuration(schemes=("zscore",))
    cases = [make_noise_case(seed=i, name=f"case{i}") for i in range(3)]

    def call(folder="run", *, objective=None, recipe=RECIPE, resume=False, n_workers=0):
        torch.manual_seed(1)
        generator = make_generator()
        objective = objective or NoisyL1()
        train = Batches(cases[:2], configuration, seed=5, augment=True, n_workers=n_workers)
        validation = Batches(cases[2:], configuration, seed=5, augment=False)
        place = tmp_path / folder
        new = None if resume and place.is_dir() else whole_folder(place, overwrite=True)
        fit(generator, objective, train, validation, recipe, place, CPU, new=new)
        return objective, generator

    return call


def _records(folder):
    records = log.read(folder)
    for record in records:
        assert record.pop("seconds") >= 0
    return records


def _assert_equal_states(first, second):
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for name in first:
            _assert_equal_states(first[name], second[name])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            _assert_equal_states(a, b)
    else:
        assert first == second


def _assert_equal_runs(first, second):
    for name in (LATEST, BEST, FINAL):
        _assert_equal_states(checkpoint.load(first / name), checkpoint.load(second / name))
    assert _records(first) == _records(second)


def test_a_training_leaves_everything_it_should(start, tmp_path):
    _, generator = start()
    folder = tmp_path / "run"
    names = {LATEST, BEST, FINAL, log.LOG_JSONL, log.LOG_TXT, PROGRESS_PNG, INTERNALS_PNG}
    assert {path.name for path in folder.iterdir()} == names
    records = _records(folder)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    assert records[-1]["step"] == 12
    assert {"fidelity", "gradient_norm", "validation_mae", "validation_sharpness"} <= set(
        records[0]
    )
    assert records[-1]["validation_mae"] < records[0]["validation_mae"]
    latest, final = checkpoint.load(folder / LATEST), checkpoint.load(folder / FINAL)
    assert torch.equal(latest["generator"]["0.weight"], generator.state_dict()["0.weight"])
    _assert_equal_states(latest["ema"], final["ema"])
    assert not torch.equal(latest["ema"]["0.weight"], latest["generator"]["0.weight"])
    assert {"optimizer", "scaler", "tally"} <= set(latest)
    assert set(latest["ranks"][0]) == {"module.critic", "optimizer.critic"}


def test_the_same_training_twice_is_the_same_to_the_bit(start, tmp_path):
    start("first")
    torch.manual_seed(99)
    start("second")
    _assert_equal_runs(tmp_path / "first", tmp_path / "second")


class _Interrupting(NoisyL1):
    def __init__(self, call):
        super().__init__()
        self.last = call

    def descend(self, generator, batch, rng):
        if self.calls == self.last:
            raise KeyboardInterrupt
        return super().descend(generator, batch, rng)


@pytest.mark.parametrize("call", [1, 4, 6, 11])
def test_a_resumed_training_is_the_unbroken_one_to_the_bit(start, tmp_path, call):
    start("unbroken")
    with pytest.raises(KeyboardInterrupt):
        start("broken", objective=_Interrupting(call))
    objective, _ = start("broken", resume=True)
    assert objective.calls == 12 - call // 3 * 3
    _assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")


@pytest.mark.parametrize("moment", ["log", "best", "latest", "drawing"])
def test_an_interruption_while_an_epoch_is_saved_loses_nothing(
    start, tmp_path, monkeypatch, moment
):
    """Between the log's line and the last file: epochs are neither lost nor there twice."""
    start("unbroken")
    name, module = {
        "log": ("append", log),
        "best": ("save", checkpoint),
        "latest": ("save", checkpoint),
        "drawing": ("draw_progress", loop),
    }[moment]
    original, calls = getattr(module, name), []

    def interrupting(*arguments):
        if name != "save" or arguments[0].name == f"checkpoint_{moment}.pt":
            calls.append(arguments)
        if len(calls) > 1 or moment == "drawing":
            raise KeyboardInterrupt
        original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, interrupting)
        patched.setattr(loop, "DRAW_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            start("broken")
    assert not (tmp_path / "broken" / FINAL).exists()
    start("broken", resume=True)
    _assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")


def test_every_step_of_every_epoch_has_its_own_random_numbers(start):
    class Recording(NoisyL1):
        def descend(self, generator, batch, rng):
            seeds.append(rng.initial_seed())
            return super().descend(generator, batch, rng)

    seeds = []
    start(objective=Recording())
    start("other", objective=Recording(), recipe=dataclasses.replace(RECIPE, seed=6))
    assert len(set(seeds)) == 24


def test_workers_change_nothing(start, tmp_path):
    start("without")
    start("with", n_workers=2)
    _assert_equal_runs(tmp_path / "without", tmp_path / "with")


def test_resuming_a_finished_training_changes_nothing(start, tmp_path):
    start()
    before = checkpoint.load(tmp_path / "run" / FINAL)
    objective, _ = start(resume=True)
    assert objective.calls == 0
    _assert_equal_states(checkpoint.load(tmp_path / "run" / FINAL), before)


def test_an_older_training_stays_until_the_first_checkpoint_of_the_new_one(start, tmp_path):
    start()
    before = checkpoint.load(tmp_path / "run" / FINAL)
    with pytest.raises(KeyboardInterrupt):
        start(objective=_Interrupting(2))  # in the last step of the first epoch
    _assert_equal_states(checkpoint.load(tmp_path / "run" / FINAL), before)
    with pytest.raises(KeyboardInterrupt):
        start(objective=_Interrupting(3))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {LATEST, BEST, log.LOG_JSONL, log.LOG_TXT, PROGRESS_PNG, INTERNALS_PNG}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_another_precision_goes_on_from_the_same_checkpoint(start, tmp_path, precision):
    with pytest.raises(KeyboardInterrupt):
        start(objective=_Interrupting(3))
    objective, _ = start(recipe=dataclasses.replace(RECIPE, precision=precision), resume=True)
    assert objective.calls == 9
    assert checkpoint.load(tmp_path / "run" / LATEST)["recipe"]["precision"] == precision


def test_another_recipe_cannot_go_on(start):
    start()
    for change in ({"seed": 6}, {"epochs": 9}, {"learning_rate": 0.1}):
        with pytest.raises(CheckpointError, match=f"was trained with {next(iter(change))} "):
            start(recipe=dataclasses.replace(RECIPE, **change), resume=True)


def test_another_objective_cannot_go_on(start):
    class Stateless(NoisyL1):
        def modules(self):
            return {}

    start()
    with pytest.raises(CheckpointError, match=r"has in addition module\.critic"):
        start(objective=Stateless(), resume=True)


def test_a_damaged_checkpoint_is_named(start, tmp_path):
    start()
    path = tmp_path / "run" / LATEST
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"checkpoint_latest\.pt: damaged"):
        start(resume=True)


def test_steps_that_are_not_finite_are_skipped_and_counted(start, tmp_path):
    spoiled = {2, 3, 7}
    objective = NoisyL1(lambda call: math.nan if call in spoiled else 1.0)
    _, generator = start(objective=objective)
    assert [record["skipped"] for record in _records(tmp_path / "run")] == [1, 2, 3, 3]
    assert all(math.isfinite(r["gradient_norm"]) for r in _records(tmp_path / "run"))
    assert all(torch.isfinite(p).all() for p in generator.parameters())


def test_ten_in_a_row_stop_and_keep_the_last_good_checkpoint(start, tmp_path):
    recipe = dataclasses.replace(RECIPE, iterations=8)
    objective = NoisyL1(lambda call: math.nan if call >= 9 else 1.0)
    with pytest.raises(TrainingError, match=r"epoch 3, step 3: 10 steps in a row.*nan.*_latest"):
        start(objective=objective, recipe=recipe)
    latest = checkpoint.load(tmp_path / "run" / LATEST)
    assert latest["epoch"] == 2
    assert all(torch.isfinite(w).all() for w in latest["generator"].values())
    assert not (tmp_path / "run" / FINAL).exists()


def test_the_count_of_bad_steps_survives_a_resume(start):
    recipe = dataclasses.replace(RECIPE, iterations=8)
    with pytest.raises(TrainingError, match="epoch 2, step 2: 10 steps in a row"):
        start(objective=NoisyL1(lambda call: math.nan), recipe=recipe)
    with pytest.raises(TrainingError, match="epoch 2, step 2: 10 steps in a row"):
        start(objective=NoisyL1(lambda call: math.nan), recipe=recipe, resume=True)


def test_weights_that_are_not_finite_stop_before_they_are_saved(start, tmp_path):
    class Poison(NoisyL1):
        def on_validation(self, metrics):
            pass

        def descend(self, generator, batch, rng):
            descent = super().descend(generator, batch, rng)
            if self.calls == 6:  # the last step of the second epoch
                with torch.no_grad():
                    generator[3].bias.fill_(math.inf)
            return descent

    with pytest.raises(TrainingError, match=r"epoch 2: weights are no longer finite.*_latest"):
        start(objective=Poison())
    assert checkpoint.load(tmp_path / "run" / LATEST)["epoch"] == 1


def test_the_best_epoch_is_kept_and_the_objective_hears_of_validation(start, tmp_path, monkeypatch):
    maes = iter([1.0, 0.5, 2.0, 1.0])
    monkeypatch.setattr(loop, "validate_patches", lambda *_: PatchQuality(next(maes), math.nan))
    objective = NoisyL1()
    start(objective=objective)
    best = checkpoint.load(tmp_path / "run" / BEST)
    assert best["epoch"] == best["tally"]["best_epoch"] == 2
    assert best["tally"]["best_mae"] == 0.75
    assert checkpoint.load(tmp_path / "run" / FINAL)["epoch"] == 4
    assert [record["best"] for record in _records(tmp_path / "run")] == [True, True, False, False]
    assert objective.seen == [{"mae": 1.0}, {"mae": 0.5}, {"mae": 2.0}, {"mae": 1.0}]


def test_validation_judges_the_averaged_weights(
    start, tmp_path, make_noise_case, make_configuration
):
    start()
    state = checkpoint.load(tmp_path / "run" / FINAL)
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.GroupNorm(1, 4), nn.ReLU(), nn.Conv3d(4, 1, 1)
    )
    network.load_state_dict(state["ema"])
    case = make_noise_case(seed=2)
    batches = Batches([case], make_configuration(schemes=("zscore",)), seed=5, augment=False)
    patches = [batches.batch(0, step) for step in range(2)]
    with torch.no_grad():
        errors = [((network(b.source) - b.target).abs()[b.mask > 0]) for b in patches]
    last = _records(tmp_path / "run")[-1]
    assert last["validation_mae"] == pytest.approx(float(torch.cat(errors).mean()), rel=1e-5)
    given = [
        [image[:, 0] for image in (network(b.source).detach().numpy(), b.target.numpy())]
        + [b.mask.numpy()[:, 0] > 0]
        for b in patches
    ]
    judged = judge_patches(
        (patch for images in given for patch in zip(*images, strict=True)), (3.0, 1.5, 1.0)
    )
    assert last["validation_gradient_w1"] == pytest.approx(judged.gradient_w1, rel=1e-4)


def test_an_objective_with_extra_channels_gets_the_same_noise_at_every_validation(start):
    class Stochastic(NoisyL1):
        inputs = Inputs(extra_channels=2)
        noises: list = []  # noqa: RUF012

        def translate(self, generator, source, noise):
            self.noises.append(noise)
            return generator(source)

    start(objective=Stochastic(), recipe=dataclasses.replace(RECIPE, epochs=2))
    batches = [noise for noise in Stochastic.noises if len(noise) == 2]  # a picture's are single
    first, second, third, fourth = batches
    assert first.shape == (2, 2, 8, 8, 8)
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert not torch.equal(first, second)


def test_a_scalar_loss_is_logged_and_descended(start, tmp_path):
    class Scalar(NoisyL1):
        def descend(self, generator, batch, rng):
            error = (generator(batch.source) - batch.target) * batch.mask
            return Descent(error.abs().sum() / batch.mask.sum(), None)

    start(objective=Scalar())
    records = _records(tmp_path / "run")
    assert all(record["loss"] > 0 for record in records)
    assert records[-1]["validation_mae"] < records[0]["validation_mae"]


def test_an_epoch_is_told_once_its_checkpoint_is_on_the_disk(start, tmp_path, caplog):
    kept = []

    class Watch(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("epoch"):
                latest = checkpoint.load(tmp_path / "run" / LATEST)
                kept.append((record.getMessage().split()[1], latest["epoch"]))

    with caplog.at_level(logging.INFO, logger="gdmnet"):
        logging.getLogger("gdmnet").addHandler(watch := Watch())
        try:
            start()
        finally:
            logging.getLogger("gdmnet").removeHandler(watch)
    n_epochs = RECIPE.epochs
    assert kept == [(f"{epoch}/{n_epochs}", epoch) for epoch in range(1, n_epochs + 1)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": 99}, "steps in 99 epochs"),
        ({"epoch": -1}, "no number of epochs"),
        ({"epoch": "two"}, "no number of epochs"),
        ({"recipe": [1]}, "no recipe"),
        ({"ranks": None}, "no recipe, or no ranks"),
        ({"ranks": []}, "says nothing of its processes"),
        ({"tally": {"step": "x"}}, "tally does not fit"),
        ({"optimizer": {"state": 5}}, "optimizer does not fit"),
        ({"generator": 7}, "generator does not fit"),
        ({"ema": "weights"}, "no weights"),
    ],
)
def test_a_checkpoint_whose_numbers_cannot_be_is_refused(start, tmp_path, change, words):
    start(recipe=dataclasses.replace(RECIPE, epochs=2))
    path = tmp_path / "run" / LATEST
    state = checkpoint.load(path)
    del state["schema"]
    checkpoint.save(path, state | change)
    with pytest.raises(CheckpointError, match=words) as error:
        start(recipe=dataclasses.replace(RECIPE, epochs=2), resume=True)
    assert "\n" not in str(error.value)


def test_the_log_is_plain_json(start, tmp_path):
    start()
    for line in (tmp_path / "run" / log.LOG_JSONL).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
