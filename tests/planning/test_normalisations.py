import dataclasses

import pytest

from gdmnet.arrays.normalise import apply, invert
from gdmnet.plan import CaseFingerprint, Fingerprint, Intensity
from gdmnet.planning.planner import choose_normalisations, residual_channel

HU = Intensity(-200.0, 450.0, -1024.0, 2900.0, -1000.0, -980.0, -50.0, 950.0, 1200.0, -1024.0)
MR = Intensity(350.0, 200.0, 0.0, 1700.0, 3.0, 10.0, 330.0, 790.0, 840.0, 1.0)


def facts(source_names, target_name, sources, target):
    case = CaseFingerprint("a", (9, 9, 9), (1.0, 1.0, 1.0), 0.5, "otsu", tuple(sources), target)
    return Fingerprint(
        1, "Dataset001_X", tuple(source_names), target_name, (case,), tuple(sources), target
    )


@pytest.mark.parametrize(
    ("sources", "target", "channel"),
    [
        (("MRI",), "CT", None),
        (("CBCT",), "CT", 0),
        (("MRI", "CT sparse", "CT"), "CT", 1),
        (("T1", "FLAIR"), "T2", None),
        (("FLAIR", "t2"), "T2", 1),
    ],
)
def test_a_residual_needs_the_same_quantity(sources, target, channel):
    assert residual_channel(sources, target) == channel


def test_a_ct_target_gets_one_window_for_the_whole_dataset():
    _, target, why = choose_normalisations(facts(["MRI"], "CT", [MR], HU))
    assert dataclasses.astuple(target) == ("ct", -200.0, 450.0, -1024.0, 3071.0, -1024.0)
    assert "-1024 to 3071 HU" in why


def test_the_window_widens_only_where_much_of_the_body_exceeds_it():
    rare_metal = dataclasses.replace(HU, maximum=30000.0)
    assert choose_normalisations(facts(["MRI"], "CT", [MR], rare_metal))[1].high == 3071.0
    dense = dataclasses.replace(rare_metal, p99_5=5000.2)
    assert choose_normalisations(facts(["MRI"], "CT", [MR], dense))[1].high == 5001.0


def test_a_ct_source_of_a_ct_target_shares_its_numbers():
    other = dataclasses.replace(HU, mean=0.0, std=700.0)
    sources, target, _ = choose_normalisations(facts(["sparse-view CT"], "CT", [other], HU))
    assert sources == (target,)


def test_a_ct_source_of_an_mr_target_keeps_its_own_numbers():
    sources, target, _ = choose_normalisations(facts(["CT"], "T2", [HU], MR))
    assert (sources[0].scheme, sources[0].centre, sources[0].background) == ("ct", -200.0, -1024.0)
    assert target.scheme == "percentiles"


def test_a_target_without_a_unit_is_scaled_by_its_percentiles():
    sources, target, why = choose_normalisations(facts(["T1"], "T2", [MR], MR))
    assert dataclasses.astuple(target) == ("percentiles", 10.0, 780.0, None, None, 1.0)
    assert dataclasses.astuple(sources[0]) == ("zscore", 350.0, 200.0, 3.0, 840.0, 1.0)
    assert "source T1: zscore" in why


def test_a_source_of_the_same_quantity_takes_the_targets_scheme_with_its_own_numbers():
    dim = dataclasses.replace(MR, p01=5.0, p99=105.0)
    sources, target, _ = choose_normalisations(facts(["T2"], "T2", [dim], MR))
    assert dataclasses.astuple(sources[0]) == ("percentiles", 5.0, 100.0, None, None, 1.0)
    assert target.scale == 780.0


def test_an_unnormalised_channel_stays_as_it_is():
    sources, _, _ = choose_normalisations(facts(["noNorm"], "CT", [MR], HU))
    assert dataclasses.astuple(sources[0]) == ("none", 0.0, 1.0, None, None, 1.0)


def test_constant_channels_do_not_divide_by_zero():
    flat = Intensity(*[5.0] * 10)
    flat = dataclasses.replace(flat, std=0.0)
    sources, target, _ = choose_normalisations(facts(["T1"], "T2", [flat], flat))
    assert sources[0].scale == target.scale == 1.0
    sources, target, _ = choose_normalisations(facts(["CT"], "CT", [flat], flat))
    assert target.scale == 1.0


def test_the_chosen_target_normalisation_is_invertible(rng):
    for name, intensity in (("CT", HU), ("T2", MR)):
        _, target, _ = choose_normalisations(facts(["T1"], name, [MR], intensity))
        image = rng.uniform(-1000, 1500, (2, 3, 4)).astype("float32")
        assert abs(invert(apply(image, target), target) - image).max() < 1e-3
