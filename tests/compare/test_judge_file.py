from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gdmnet.compare.judge import GroupNormEncoder, Subject, make_judge
from gdmnet.compare.judge_file import load_judge, save_judge
from gdmnet.encoders.frozen import FrozenEncoder
from gdmnet.errors import CheckpointError


@pytest.fixture(scope="module")
def judge():
    image = np.random.default_rng(0).normal(0, 100, (12, 20, 20)).astype(np.float32)
    subject = Subject("a", image, np.ones(image.shape), (2.0, 1.0, 1.0))
    return make_judge([subject], kind="random", iterations=2, seed=3)


def test_a_kept_judge_judges_as_before(judge, tmp_path, rng):
    save_judge(judge, tmp_path / "judge.pt")
    kept = load_judge(tmp_path / "judge.pt")
    image = rng.normal(0, 1, (12, 20, 20)).astype(np.float32)
    starts = [(0, 0, 0), (3, 5, 2)]
    assert kept.description == judge.description
    assert np.array_equal(kept.features(image, starts), judge.features(image, starts))


def test_a_judge_of_another_kind_is_not_kept(judge, tmp_path):
    other = FrozenEncoder(GroupNormEncoder(judge.encoder.encoder))
    with pytest.raises(ValueError, match="plain convolutions"):
        save_judge(replace(judge, encoder=other), tmp_path / "judge.pt")


def test_what_is_no_judge_is_refused(judge, tmp_path):
    path = tmp_path / "judge.pt"
    path.write_bytes(b"no")
    with pytest.raises(CheckpointError):
        load_judge(path)
    with pytest.raises(CheckpointError):
        load_judge(tmp_path / "missing.pt")
