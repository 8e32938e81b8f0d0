"""A plan that was edited by hand is refused in one line, or a network can be made of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_models import make_configuration, make_fingerprint, make_plan

from gdmnet import codec
from gdmnet.errors import PlanError
from gdmnet.networks.unet import Generator
from gdmnet.plan import Fingerprint, Plan

ODD = (None, True, 0, -1, 1.5, 1e9, 1e-9, -1e30, 10**30, "", "x", "../../etc", [], {}, [1], [[1]])


def leaves(data, path=()):
    """The path of each value in JSON data, lists and objects included."""
    if path:
        yield path
    if isinstance(data, (dict, list)):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield from leaves(data[key], (*path, key))


def edited(data, rng):
    """A copy of the data with one value changed at random."""
    data = json.loads(json.dumps(data))
    paths = list(leaves(data))
    *parents, last = paths[rng.integers(len(paths))]
    place = data
    for key in parents:
        place = place[key]
    before, choice = place[last], int(rng.integers(len(ODD) + 3))
    if choice < len(ODD):
        place[last] = ODD[choice]
    elif type(before) in (int, float):
        place[last] = before * (-1, 2, 1000)[choice - len(ODD)]
    elif isinstance(before, list) and before:
        place[last] = (before[:-1], [*before, before[-1]], before[::-1])[choice - len(ODD)]
    else:
        del place[last]
    return data


@pytest.mark.parametrize("seed", range(4))
def test_a_random_edit_is_one_line_or_a_plan_that_works(tmp_path, seed):
    rng = np.random.default_rng(seed)
    data, path = codec.encode(make_plan(make_configuration())), tmp_path / "plan.json"
    n_refused = 0
    for _ in range(80):
        path.write_text(json.dumps(edited(data, rng)))
        try:
            plan = codec.load(Plan, path)
        except PlanError as problem:
            n_refused += len(str(problem).splitlines())
            continue
        (configuration,) = plan.configurations.values()
        if np.prod(configuration.patch_size) * max(configuration.architecture.features) > 1e5:
            continue  # large, but possible
        network = Generator(
            configuration.architecture,
            n_sources=len(configuration.sources),
            residual_channel=configuration.residual_channel,
        )
        inputs = torch.zeros(1, len(configuration.sources), *configuration.patch_size)
        assert network(inputs).shape[2:] == configuration.patch_size
    assert 20 < n_refused <= 80


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"patch_size": [8, 16, 15]}, "patch_size .* is no multiple"),
        ({"spacing": [2.0, 0.0, 1.0]}, "spacing .* must lie in"),
        ({"batch_size": 0}, "batch_size 0 is not in 1 to 1024"),
        ({"residual_channel": 1}, "residual_channel 1 is none of 1 sources"),
        ({"sources": []}, "sources must name"),
        ({"architecture": {"strides": []}}, "architecture: features, .* as many entries"),
        ({"architecture": {"strides": [[2, 1, 1]] * 2}}, "architecture.strides must begin with"),
    ],
)
def test_what_cannot_be_trained_is_refused_where_it_is_read(tmp_path, change, complaint):
    data = codec.encode(make_plan(make_configuration()))
    configuration = data["configurations"]["3d_fullres"]
    architecture = configuration["architecture"] | change.get("architecture", {})
    configuration.update(change | {"architecture": architecture})
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(PlanError, match=rf"plan.json.configurations.3d_fullres: {complaint}"):
        codec.load(Plan, tmp_path / "plan.json")


def test_a_fingerprint_without_one_of_the_quantiles_is_refused(tmp_path):
    data = codec.encode(make_fingerprint())
    data["cases"][1]["sources"][0]["quantiles"].pop()
    (tmp_path / "fingerprint.json").write_text(json.dumps(data))
    with pytest.raises(PlanError, match=r"cases\[1\].sources\[0\]: quantiles must be 5, not 4"):
        codec.load(Fingerprint, tmp_path / "fingerprint.json")


def test_an_ending_that_is_none_of_an_image_is_refused(tmp_path):
    data = codec.encode(make_plan(make_configuration())) | {"file_ending": "zzz"}
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(PlanError, match=r"file_ending must be one of .nii.gz, "):
        codec.load(Plan, tmp_path / "plan.json")
