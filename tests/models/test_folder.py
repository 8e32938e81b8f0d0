from __future__ import annotations

import dataclasses

import pytest
import small_models

from gdmnet import codec
from gdmnet.errors import PlanError
from gdmnet.folders import RUN_JSON
from gdmnet.models.folder import CONTINUED_JSON, DIAL_JSON, Computation, DialChoice, read_run
from gdmnet.objectives.options import all_options


@pytest.fixture
def run(tmp_path):
    run = small_models.make_run(small_models.make_configuration())
    run = dataclasses.replace(run, options=all_options("regression", {"perceptual": 0.5}))
    codec.save(run, tmp_path / RUN_JSON)
    return run


def test_a_run_is_as_it_began_until_something_was_decided(run, tmp_path):
    assert read_run(tmp_path) == run
    codec.save(Computation("bf16", "cuda", 7, 3), tmp_path / CONTINUED_JSON)
    codec.save(DialChoice(0.75, 0.01), tmp_path / DIAL_JSON)
    found = read_run(tmp_path)
    recipe = dataclasses.replace(run.recipe, precision="bf16")
    now = {"device": "cuda", "n_threads": 7, "n_workers": 3, "realism": 0.75}
    assert found == dataclasses.replace(run, recipe=recipe, **now)
    assert Computation.of(found) == Computation("bf16", "cuda", 7, 3)


def test_options_that_an_older_run_left_out_are_there(run, tmp_path):
    codec.save(dataclasses.replace(run, options={"perceptual": 0.5}), tmp_path / RUN_JSON)
    assert read_run(tmp_path) == run
    unknown = dataclasses.replace(run, options={"level": 1})  # of another version
    codec.save(unknown, tmp_path / RUN_JSON)
    assert read_run(tmp_path) == unknown


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("recipe.epochs", 0, "epochs must be at least 1"),
        ("recipe.precision", "fp12", "precision 'fp12' is unknown; take one of fp32, bf16, fp16"),
        ("n_workers", -1, "n_workers must be at least 0"),
        ("n_threads", "two", "n_threads"),
    ],
)
def test_a_number_out_of_bounds_is_named_with_its_file(run, tmp_path, name, value, words):
    data = codec.encode(run)
    (data["recipe"] if "." in name else data)[name.split(".")[-1]] = value
    codec.save(data, tmp_path / RUN_JSON)
    with pytest.raises(PlanError, match=words) as error:
        read_run(tmp_path)
    assert "run.json" in str(error.value)
