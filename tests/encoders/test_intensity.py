from __future__ import annotations

import math

import numpy as np
import pytest
from encoders.fakes import BODIES, CT, MR, fingerprint

from gdmnet.arrays import normalise
from gdmnet.encoders.intensity import HuWindow, ZScore, intensity_map, moments
from gdmnet.errors import PlanError
from gdmnet.plan import Normalisation

CTFM = HuWindow(-1024.0, 2048.0)


def seen(mapped, value):
    return min(max(mapped.scale * value + mapped.offset, mapped.low), mapped.high)


def in_units(hu, target=CT):
    return float(normalise.apply(np.array([hu]), target)[0])


@pytest.mark.parametrize(
    ("hu", "wanted"), [(-1024, 0), (2048, 1), (0, 1 / 3), (3000, 1), (-3000, 0), (1024, 2 / 3)]
)
def test_hounsfield_units_arrive_in_the_encoders_window(hu, wanted):
    assert seen(intensity_map(CTFM, CT, BODIES, name="x"), in_units(hu)) == pytest.approx(
        wanted, abs=1e-6
    )


def test_nnunets_window_is_a_clip_and_a_z_score():
    low, high, mean, std = -900.0, 1300.0, -50.0, 200.0
    expects = HuWindow(low, high, (low - mean) / std, (high - mean) / std)
    mapped = intensity_map(expects, CT, BODIES, name="x")
    for hu in (-1000, -900, -50, 0, 77, 1300, 2500):
        wanted = (np.clip(hu, low, high) - mean) / std
        assert seen(mapped, in_units(hu)) == pytest.approx(wanted, abs=1e-5)


def test_a_narrow_window_is_warned_of(caplog):
    mapped = intensity_map(HuWindow(-175.0, 250.0), CT, BODIES, name="voco")
    assert mapped.outside == pytest.approx(1 - 425 / 2150)
    assert "encoder voco: 80 % of the target's range lie outside" in caplog.text
    caplog.clear()
    assert intensity_map(CTFM, CT, BODIES, name="x").outside == 0
    assert intensity_map(HuWindow(-800.0, 1200.0), CT, BODIES, name="x").outside < 0.1
    assert not caplog.text
    assert intensity_map(CTFM, CT, None, name="x").outside == pytest.approx(1023 / 4095)
    assert intensity_map(HuWindow(2000.0, 3000.0), CT, BODIES, name="x").outside == 1


def test_targets_without_hounsfield_units_are_refused_by_encoders_of_ct():
    with pytest.raises(PlanError, match=r"encoder ctfm: .*percentiles.*gdm_info --encoders"):
        intensity_map(CTFM, MR, BODIES, name="ctfm")
    with pytest.raises(PlanError, match=r"fingerprint\.json"):
        intensity_map(ZScore(), MR, None, name="x")


@pytest.mark.parametrize("whole", [True, False])
def test_a_z_score_is_that_of_the_training_targets_in_network_units(whole):
    """Two volumes of body and air, by hand."""
    rng = np.random.default_rng(0)
    values, facts = [], []
    for mean, n_body, n_air in ((100.0, 3000, 7000), (260.0, 8000, 2000)):
        body, air = rng.normal(mean, 50, n_body), np.full(n_air, -1000.0)
        volume = np.concatenate([body, air]) if whole else body
        values.append((volume - CT.centre) / CT.scale)
        share = n_body / (n_body + n_air)
        facts.append((body.mean(), body.std(), -950.0, -900.0, 900.0, 1200.0, -1000.0, share))
    mapped = intensity_map(ZScore(whole=whole), CT, fingerprint(*facts), name="x")
    mean = np.mean([v.mean() for v in values])
    std = np.sqrt(np.mean([np.mean(v**2) for v in values]) - mean**2)
    for x in (-1.0, 0.0, 2.5):
        assert seen(mapped, x) == pytest.approx((x - mean) / std, rel=1e-5)


def test_each_case_of_an_mr_is_scored_in_its_own_units():
    """The second scanner is ten times brighter, which the network never sees."""
    first = (300.0, 100.0, 5.0, 10.0, 510.0, 600.0, 0.0, 0.5)
    second = (*(10 * value for value in first[:-1]), 0.5)
    mean, std = moments(fingerprint(first, second), MR, whole=False)
    assert (mean, std) == pytest.approx(((300 - 10) / 500, 100 / 500))
    mean, _ = moments(fingerprint(first, second), MR, whole=True)
    assert mean == pytest.approx(0.5 * 290 / 500 + 0.5 * -10 / 500)


def test_a_z_scored_target_is_left_as_it_is_and_air_is_clipped_to_the_plan():
    scored = Normalisation("zscore", 0.0, 1.0, None, None, 0.0)
    facts = (300.0, 100.0, 5.0, 10.0, 510.0, 600.0, 0.0, 1.0)
    assert moments(fingerprint(facts), scored, whole=False) == pytest.approx((0.0, 1.0))
    below = (0.0, 300.0, -950.0, -900.0, 900.0, 1200.0, -3000.0, 0.5)
    mean, _ = moments(fingerprint(below), CT, whole=True)
    assert mean == pytest.approx((0.5 * 0 + 0.5 * -1024 + 200) / 400)


def test_a_flat_target_does_not_divide_by_zero():
    flat = fingerprint((5.0, 0.0, 5.0, 5.0, 5.0, 5.0, 5.0, 1.0))
    mapped = intensity_map(ZScore(), MR, flat, name="x")
    assert math.isfinite(mapped.scale)
    assert math.isfinite(mapped.offset)
