from dataclasses import replace

import numpy as np
import pytest

from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.volume import read_volume
from gdmnet.geometry import Geometry
from gdmnet.inference.input_check import (
    ImageFacts,
    check_input,
    describe_check,
    measure_input,
    warning,
)
from gdmnet.plan import CaseFingerprint, Fingerprint, Intensity, Normalisation
from gdmnet.planning.fingerprint import measure_case, summarise
from gdmnet.preprocessing import prepare_volumes

MR = Normalisation("zscore", 0.0, 1.0, None, None, 0.0)


def intensity(*, p01=-900.0, p50=0.0, p99=1000.0, std=200.0, outside=-1000.0, noise=None):
    return Intensity(
        mean=p50,
        std=std,
        minimum=p01 - 50,
        maximum=p99 + 50,
        p00_5=p01 - 10,
        p01=p01,
        p50=p50,
        p99=p99,
        p99_5=p99 + 10,
        outside=outside,
        noise=noise,
    )


def case(*, spacing=(2.0, 1.0, 1.0), shape=(50, 200, 200), sources=None):
    sources = (intensity(),) if sources is None else sources
    return CaseFingerprint("x", shape, spacing, 0.5, "otsu", sources, sources[0])


def fingerprint(*cases, names=("CT",)) -> Fingerprint:
    return summarise("Dataset501_Test", cases, names, "CT")


def facts(**changes):
    return facts_of(case(**changes))


def facts_of(measured):
    return ImageFacts(measured.shape, measured.spacing, measured.body_fraction, measured.sources)


def names(findings):
    return [finding.what for finding in findings]


def check(given, *cases, channels=("CT",)):
    return check_input(given, fingerprint(*cases, names=channels))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_training_case_is_like_the_training_data(n):
    assert check(facts(), *[case()] * n) == ()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_has_its_own_spacing(axis):
    spacing = [2.0, 1.0, 1.0]
    shape = [50, 200, 200]
    spacing[axis] *= 3
    shape[axis] = shape[axis] // 3
    (finding,) = check(facts(spacing=tuple(spacing), shape=tuple(shape)), case())
    assert finding.what == f"spacing along {'zyx'[axis]}"
    assert finding.value == spacing[axis]
    assert finding.unit == "mm"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_has_its_own_field_of_view(axis):
    shape = [50, 200, 200]
    shape[axis] = shape[axis] // 2
    (finding,) = check(facts(shape=tuple(shape)), case())
    assert finding.what == f"field of view along {'zyx'[axis]}"
    assert finding.value == 50 if axis == 0 else 100
    assert finding.training == pytest.approx((finding.value * 2,) * 2)


@pytest.mark.parametrize(("factor", "n_expected"), [(0.45, 1), (0.55, 0), (1.9, 0), (2.1, 1)])
def test_a_single_case_leaves_a_factor_of_two_to_the_spacing(factor, n_expected):
    given = facts(spacing=(2.0 * factor, 1.0, 1.0), shape=(round(50 / factor), 200, 200))
    assert len(check(given, case())) == n_expected


def test_the_limits_are_the_range_and_the_core_on_both_sides():
    # Medians 0, 100, ..., 1000 HU: core from 100 to 900, accepted from 0 - 800 to 1000 + 800.
    training = [case(sources=(intensity(p50=100.0 * i),)) for i in range(11)]
    (finding,) = check(facts(sources=(intensity(p50=1801),)), *training)
    assert finding.what == "median of CT"
    assert finding.training == (0, 1000)
    assert finding.accepted == pytest.approx((-800, 1800))
    assert check(facts(sources=(intensity(p50=1799),)), *training) == ()
    assert names(check(facts(sources=(intensity(p50=-801),)), *training)) == ["median of CT"]


def test_one_odd_training_case_does_not_widen_the_margin():
    training = [case() for _ in range(20)]
    odd = case(sources=(intensity(p50=5000),))
    (finding,) = check(facts(sources=(intensity(p50=-301),)), *training, odd)
    assert finding.accepted == pytest.approx((-300, 5300))  # 1.5 deviations of 200 HU


def test_factors_are_compared_as_factors():
    training = [case(spacing=(s, 1.0, 1.0), shape=(round(100 / s), 200, 200)) for s in (1, 8)]
    low, high = 8**-0.8, 8**1.8  # quantiles 0.1 and 0.9 of two values are 0.8 of them apart
    given = facts(spacing=(high * 1.1, 1.0, 1.0), shape=(3, 200, 200))
    (finding,) = check(given, *training)
    assert finding.accepted == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"p01": -8700.0}, "percentile 1"),
        ({"p50": 350.0}, "median"),
        ({"p99": 10000.0}, "percentile 99"),
        ({"std": 600.0}, "contrast (standard deviation)"),
        ({"outside": 24.0}, "background"),
    ],
)
def test_ct_is_compared_in_hu(changes, what):
    (finding,) = check(facts(sources=(intensity(**changes),)), case())
    assert finding.what == f"{what} of CT"
    assert finding.unit == "HU"
    assert finding.value == next(iter(changes.values()))


def mr(gain=1.0, **changes):
    values = {"p01": 10.0, "p50": 400.0, "p99": 800.0, "std": 100.0, "outside": 0.0, **changes}
    return intensity(**{name: value * gain for name, value in values.items()})


def test_the_gain_of_an_mr_does_not_count_but_its_shape_does():
    training = [case(sources=(mr(gain),)) for gain in (1, 1.2, 0.8)]
    assert check(facts(sources=(mr(50),)), *training, channels=("T1",)) == ()
    for changes, what in (
        ({"p01": -600.0}, "percentile 1"),
        ({"p50": 600.0}, "median"),
        ({"std": 300.0}, "contrast (standard deviation)"),
        ({"outside": 300.0}, "background"),
    ):
        given = facts(sources=(mr(3, **changes),))
        (finding,) = check(given, *training, channels=("T1",))
        assert finding.what == f"{what} of T1 over its percentile 99"
        assert finding.value == pytest.approx(next(iter(changes.values())) / 800)
        assert finding.unit == ""


def test_a_scale_that_is_kept_is_compared_as_it_is():
    training = case(sources=(mr(),))
    found = check(facts(sources=(mr(10),)), training, channels=("T1map noNorm",))
    assert "percentile 99 of T1map noNorm" in names(found)
    assert {finding.unit for finding in found} == {""}


def noisy(level):
    return case(sources=(intensity(noise=level),))


def test_ct_with_other_noise_is_noticed():
    training = [noisy(40.0), noisy(44.0)]
    assert check(facts_of(noisy(50.0)), *training) == ()
    (finding,) = check(facts_of(noisy(100.0)), *training)
    assert str(finding) == "noise of CT 100 HU (training 40 to 44)"


@pytest.mark.parametrize(("channel", "known"), [("T1", 40.0), ("CT", None)])
def test_noise_counts_neither_in_mr_nor_where_the_training_cases_do_not_tell(channel, known):
    assert check(facts_of(noisy(400.0)), noisy(known), noisy(40.0), channels=(channel,)) == ()


def test_training_cases_of_which_one_does_not_tell_its_noise_are_compared_in_turn():
    assert describe_check(fingerprint(noisy(None), noisy(40.0))).false_alarms == 0


SHAPES = {"usual": (40, 120, 400, 560, 720), "alike": (50, 140, 420, 580, 700)}


def test_an_mr_of_inverted_contrast_is_noticed_by_its_histogram():
    known = [case(sources=(replace(mr(), quantiles=SHAPES[name]),)) for name in SHAPES]
    inverted = tuple(840.0 - q for q in reversed(SHAPES["usual"]))
    given = facts(sources=(replace(mr(3), quantiles=tuple(3 * q for q in inverted)),))
    (finding,) = check(given, *known, channels=("T1",))
    assert finding.what.startswith("histogram of T1 in the body")
    distances = [np.abs(np.subtract(inverted, SHAPES[name])).mean() / 800 for name in SHAPES]
    assert finding.value == pytest.approx(min(distances))
    assert finding.training == pytest.approx((18 / 800,) * 2)
    assert finding.accepted == (0.0, 0.1)
    assert check(given, *known, channels=("CT",)) != (finding,)  # CT is compared in HU
    older = [replace(one, sources=(mr(),)) for one in known]
    assert check(given, *older, channels=("T1",)) == ()


@pytest.mark.parametrize(
    ("known", "own", "is_found"),
    [
        ((-1.5, -0.6), 0.6, True),
        ((-1.5, -0.6), 0.4, False),
        ((0.7, 0.9), -0.6, True),
        ((-1.5, -0.4), 1.5, False),  # not all of the training cases are dark there
        ((-1.5, None), 1.5, False),
        ((-1.5, -0.6), None, False),
    ],
)
def test_an_mr_that_is_bright_where_all_training_cases_are_dark_is_noticed(known, own, is_found):
    cases = [case(sources=(replace(mr(), rim=rim),)) for rim in known]
    given = facts(sources=(replace(mr(3), rim=own),))
    found = check(given, *cases, channels=("T1",))
    assert names(found) == ["rim of T1 over its core, in standard deviations"] * is_found
    assert "rim" not in " ".join(names(check(given, *cases, channels=("T1 noNorm",))))
    assert all(np.isfinite([*finding.accepted, *finding.training]).all() for finding in found)


def test_training_cases_that_differ_widen_what_their_histograms_allow():
    far = tuple(q + 160.0 for q in SHAPES["usual"])
    known = [case(sources=(replace(mr(), quantiles=q),)) for q in (SHAPES["usual"], far)]
    farther = facts(sources=(replace(mr(), quantiles=tuple(q + 160 + 230.0 for q in far)),))
    (finding,) = check(farther, *known, channels=("T1",))
    assert finding.accepted[1] == pytest.approx(1.5 * 0.2)
    nearer = facts(sources=(replace(mr(), quantiles=tuple(q + 230.0 for q in far)),))
    assert check(nearer, *known, channels=("T1",)) == ()


@pytest.mark.parametrize(("fraction", "n"), [(0.24, 1), (0.26, 0), (0.98, 0), (0.2, 1)])
def test_the_bodys_share_of_the_image_is_compared(fraction, n):
    given = replace(facts(), body_fraction=fraction)
    found = check(given, case())
    assert names(found) == ["share of the image that is body"] * n


def test_every_channel_is_looked_at():
    training = case(sources=(mr(), intensity()))
    given = facts(sources=(mr(), intensity(p50=500)))
    assert names(check(given, training, channels=("T1", "CBCT"))) == ["median of CBCT"]
    given = facts(sources=(mr(p50=780.0), intensity()))
    (finding,) = check(given, training, channels=("T1", "CBCT"))
    assert finding.what == "median of T1 over its percentile 99"


def test_an_empty_channel_is_no_reason_to_fall_over():
    empty = mr(0)
    assert names(check(facts(sources=(empty,)), case(sources=(mr(),)), channels=("T1",)))
    assert check(facts(sources=(empty,)), case(sources=(empty,)), channels=("T1",)) == ()


def test_training_cases_left_out_in_turn_tell_the_rate_of_false_alarms():
    alike = [case() for _ in range(6)]
    odd = case(sources=(intensity(p50=2000),))
    assert describe_check(fingerprint(*alike)).false_alarms == 0
    described = describe_check(fingerprint(*alike, odd))
    assert (described.training_cases, described.false_alarms) == (7, 1)
    assert describe_check(fingerprint(case())).false_alarms is None


def test_the_warning_names_three_findings_and_counts_the_rest():
    findings = check(facts(spacing=(9.0, 9.0, 9.0)), case())
    text = warning(findings)
    assert text.startswith("unlike the training data: spacing along z 9 mm (training 2 to 2); ")
    assert len(findings) == 6
    assert text.endswith("; and 3 more")
    assert "\n" not in text
    assert "more" not in warning(findings[:3])
    both = check(facts(spacing=(9.0, 1.0, 1.0), sources=(intensity(p50=900),)), case())
    assert warning(both).startswith("unlike the training data: median of CT 900 HU")


def test_an_input_is_measured_as_a_training_case_is(models):
    ct = models.make_ct(seed=1)
    volume = Volume(ct[None], models.make_geometry(ct.shape))
    measured = measure_input(*prepare_volumes("a", volume, models.make_configuration()))
    wanted = models.make_fingerprint().cases[1]
    assert measured == facts_of(wanted)


def test_an_input_is_measured_on_its_own_grid(models):
    configuration = models.make_configuration(spacing=(4.0, 2.0, 2.0))
    ct = models.make_ct(seed=1)
    volume = Volume(ct[None], models.make_geometry(ct.shape))
    measured = measure_input(*prepare_volumes("a", volume, configuration))
    wanted = facts_of(models.make_fingerprint().cases[1])
    assert measured.spacing == wanted.spacing
    assert np.abs(np.subtract(measured.shape, wanted.shape)).max() <= 2
    assert measured.sources[0].p50 == pytest.approx(wanted.sources[0].p50, abs=20)
    assert measured.sources[0].outside == wanted.sources[0].outside


def test_a_body_thinner_than_the_prepared_grid_is_the_whole_volume(models):
    configuration = models.make_configuration(spacing=(40.0, 40.0, 40.0))
    ct = models.make_ct()
    volume = Volume(ct[None], models.make_geometry(ct.shape))
    prepared, _ = prepare_volumes("a", volume, configuration)
    hollow = replace(prepared, body=np.zeros_like(prepared.body))
    assert measure_input(hollow, volume).shape == ct.shape


def real_fingerprint(sources, targets, channels, target):
    pairs = zip(sources, targets, strict=True)
    files = [CaseFiles(s.name, (s,), target=t) for s, t in pairs]
    return summarise("x", [measure_case(f, channels, target) for f in files], channels, target)


def altered(volume, *, gain=1.0, step=1, keep=1.0):
    """A volume in wrong units, of every `step`-th voxel, of the lower `keep` of its slices."""
    z = round(volume.array.shape[1] * keep)
    array = np.ascontiguousarray(volume.array[:, :z:step, ::step, ::step]) * np.float32(gain)
    spacing = tuple(step * width for width in volume.geometry.spacing)
    return Volume(array, Geometry(array.shape[1:], spacing))


def findings_of(volume, configuration, trained):
    return check_input(measure_input(*prepare_volumes("x", volume, configuration)), trained)


@pytest.mark.real
def test_real_brains_pass_and_what_is_no_such_brain_does_not(shared, models):
    brains = shared / "data/raw/Dataset501_BrainT1toT2"
    trained = real_fingerprint(
        sorted((brains / "imagesTr").iterdir()),
        sorted((brains / "targetsTr").iterdir()),
        ("T1",),
        "T2",
    )
    mr = replace(models.make_configuration(), spacing=(1.0, 1.0, 1.0), sources=(MR,))
    for path in sorted((brains / "imagesTs").iterdir()):
        volume = read_volume(path)
        assert findings_of(volume, mr, trained) == ()
        assert findings_of(altered(volume, gain=10), mr, trained) == ()
        coarse = names(findings_of(altered(volume, step=3), mr, trained))
        assert {"spacing along y", "spacing along x"} <= set(coarse)
        cropped = names(findings_of(altered(volume, keep=0.4), mr, trained))
        assert "field of view along z" in cropped
    ct = read_volume(shared / "data/ct/val/ct_okbp_pt_207.nii.gz")
    assert any("percentile 1 of T1" in what for what in names(findings_of(ct, mr, trained)))


@pytest.mark.real
def test_real_ct_in_other_units_or_with_the_air_of_an_mr_is_noticed(shared, models):
    places = sorted((shared / "data/ct/train").glob("ct_okbp_pt_1*.nii.gz"))
    trained = real_fingerprint(places[:4], places[:4], ("CT",), "CT")
    ct = replace(models.make_configuration(), spacing=(3.0, 4.5, 4.5))
    volume = read_volume(shared / "data/ct/val/ct_okbp_pt_207.nii.gz")
    assert findings_of(volume, ct, trained) == ()
    found = names(findings_of(altered(volume, gain=10), ct, trained))
    assert {"percentile 1 of CT", "percentile 99 of CT"} <= set(found)
    shifted = Volume(volume.array + np.float32(1024), volume.geometry)
    assert "background of CT" in names(findings_of(shifted, ct, trained))
