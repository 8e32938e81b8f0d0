import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its own custom)
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet import codec
from gdmnet.data.body import find_body, without_bias
from gdmnet.data.case import CaseFiles
from gdmnet.data.volume import read_channels
from gdmnet.errors import DatasetError, PlanError
from gdmnet.plan import CaseFingerprint, Fingerprint, Intensity
from gdmnet.planning import fingerprint
from gdmnet.planning.fingerprint import measure_case, measure_intensity, pool, summarise

SPACING = (3.0, 2.0, 1.0)


def write(path, array):
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def case(tmp_path, rng):
    """A block of 4 x 10 x 8 voxels in air: a zero-background MR and its CT."""
    block = (slice(3, 7), slice(5, 15), slice(4, 12))
    mr, ct = np.zeros((10, 20, 18)), np.full((10, 20, 18), -1000.0)
    mr[block] = rng.uniform(50, 900, (4, 10, 8)).round()
    ct[block] = rng.uniform(-100, 1500, (4, 10, 8)).round()
    files = CaseFiles("a", (write(tmp_path / "mr.nii.gz", mr),), write(tmp_path / "ct.mha", ct))
    return files, mr[block], ct[block]


def test_a_case_is_measured_inside_its_body(case):
    files, mr, ct = case
    facts = measure_case(files, ["MR"], "CT")
    assert facts.identifier == "a"
    assert facts.shape == (4, 10, 8)
    assert facts.spacing == SPACING
    assert facts.mask_rule == "non-zero"
    assert facts.body_fraction == pytest.approx(320 / 3600)
    assert facts.sources[0].mean == pytest.approx(mr.mean())
    assert facts.sources[0].outside == 0
    assert facts.target.p99 == pytest.approx(np.percentile(ct, 99))
    assert facts.target.outside == -1000


def test_a_given_mask_decides(case, tmp_path):
    files, _, ct = case
    mask = np.zeros((10, 20, 18))
    mask[3:7, 5:15, 4:6] = 1
    files = CaseFiles("a", files.sources, files.target, write(tmp_path / "mask.nrrd", mask))
    facts = measure_case(files, ["MR"], "CT")
    assert facts.mask_rule == "given"
    assert facts.shape == (4, 10, 2)
    assert facts.target.maximum == ct[..., :2].max()


def test_a_whole_field_of_view_changes_the_size_and_no_intensity(case):
    files, _, _ = case
    body = measure_case(files, ["MR"], "CT")
    whole = measure_case(files, ["MR"], "CT", region="everything")
    assert whole == replace(body, shape=(10, 20, 18), mask_rule="everything")
    assert summarise("D", [whole], ["MR"], "CT", region="everything").region == "everything"


def test_intensities_are_those_after_the_bias_correction(case):
    files, _, _ = case
    plain = measure_case(files, ["MR"], "CT")
    corrected = measure_case(files, ["MR"], "CT", "n4")
    sources = read_channels(files.sources)
    body = find_body(sources, ["zscore"], "body", None, case="a")
    (flat,) = without_bias(sources, ["zscore"], "n4", body)
    inside, spacing = sources.array[0] != 0, sources.geometry.spacing
    assert corrected.sources == (measure_intensity(flat, inside, spacing),)
    assert corrected.sources != plain.sources
    assert corrected.target == plain.target
    assert summarise("D", [corrected], ["MR"], "CT", "n4").bias_correction == "n4"
    assert measure_case(files, ["CT"], "CT", "n4") == measure_case(files, ["CT"], "CT")


def test_an_empty_mask_and_a_missing_target_are_refused(case, tmp_path):
    files, _, _ = case
    mask = write(tmp_path / "mask.nii", np.zeros((10, 20, 18)))
    with pytest.raises(DatasetError, match="case a: the mask is empty"):
        measure_case(CaseFiles("a", files.sources, files.target, mask), ["MR"], "CT")
    with pytest.raises(DatasetError, match="a: no target"):
        measure_case(CaseFiles("a", files.sources), ["MR"], "CT")


def test_a_fingerprint_is_read_back_as_it_was_written(case, tmp_path):
    files, _, _ = case
    facts = summarise("Dataset001_X", [measure_case(files, ["MR"], "CT")], ["MR"], "CT")
    codec.save(facts, tmp_path / "fingerprint.json")
    assert codec.load(Fingerprint, tmp_path / "fingerprint.json") == facts


@pytest.mark.parametrize("n_sources", [0, 2])
def test_every_case_of_a_fingerprint_has_the_channels_it_names(case, tmp_path, n_sources):
    files, _, _ = case
    facts = summarise("Dataset001_X", [measure_case(files, ["MR"], "CT")], ["MR"], "CT")
    data = codec.encode(facts)
    data["cases"][0]["sources"] *= n_sources
    (tmp_path / "fingerprint.json").write_text(json.dumps(data))
    with pytest.raises(PlanError, match=r"fingerprint.json: sources must have an entry a channel"):
        codec.load(Fingerprint, tmp_path / "fingerprint.json")


def test_without_an_outside_the_minimum_stands_for_it(rng):
    image = rng.normal(size=(3, 4, 5))
    assert measure_intensity(image, np.ones(image.shape, bool)).outside == image.min()


def test_noise_is_told_from_a_slope_and_from_edges(rng):
    z, y, x = np.meshgrid(*(np.arange(float(n)) for n in (9, 40, 40)), indexing="ij")
    clean = 5.0 * x - 3.0 * y + 20 * z + 500 * (x > 20)
    inside = np.ones(clean.shape, dtype=bool)
    assert measure_intensity(clean, inside).noise == 0
    found = measure_intensity(clean + rng.normal(0, 10, clean.shape), inside).noise
    assert found == pytest.approx(10 * 20**0.5 * 0.6745, rel=0.1)  # 4 and four times -1


@pytest.mark.parametrize("shape", [(5, 1, 30), (5, 2, 2), (1, 20, 20)])
def test_thin_images_have_a_noise_too(rng, shape):
    image = rng.normal(size=shape)
    assert np.isfinite(measure_intensity(image, np.ones(shape, dtype=bool)).noise)


@pytest.mark.parametrize("n_slices", [5, 64])
def test_of_large_volumes_some_slices_are_looked_at_and_all_extremes(rng, monkeypatch, n_slices):
    shape, spacing = (n_slices, 30, 41), (0.8, 1.5, 1.2)
    image, inside = rng.normal(50, 20, shape), np.zeros(shape, bool)
    inside[:, 3:-3, 4:-4] = True
    image[3, 10, 10], image[1, 10, 10], image[2, 0, 0] = 300.0, -200.0, 900.0
    whole = measure_intensity(image, inside, spacing)
    monkeypatch.setattr(fingerprint, "_MANY", 10_000)
    found = measure_intensity(image, inside, spacing)
    assert (found.minimum, found.maximum) == (-200.0, 300.0)
    assert (found == whole) == (n_slices == 5)
    assert (found.mean, found.std, found.rim) == pytest.approx(
        (whole.mean, whole.std, whole.rim), rel=0.05, abs=0.1
    )
    only_one = np.zeros(shape, bool)
    only_one[1, 10:20, 10:20] = True
    assert measure_intensity(image, only_one).mean == image[only_one].mean()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.5, 0.5), (2.0, 2.0, 2.0)])
def test_the_rim_is_told_from_the_core_in_millimetres(rng, spacing):
    axes = (np.arange(-30.0, 30.1, width) for width in spacing)
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))  # mm
    image = np.where(radius > 22, 100.0, 300.0) + rng.normal(0, 5, radius.shape)
    inside = radius <= 26
    found = measure_intensity(image, inside, spacing).rim
    assert found == pytest.approx(-200 / image[inside].std(), rel=0.2)
    assert measure_intensity(500 - 2 * image, inside, spacing).rim == pytest.approx(-found)
    assert measure_intensity(image, inside).rim is None
    assert measure_intensity(image, np.ones_like(inside), spacing).rim is None
    assert measure_intensity(image, radius <= 2, spacing).rim in (None, pytest.approx(0, abs=3))


def test_pooling_weighs_every_case_equally(rng):
    small, large = rng.normal(0, 1, 10), rng.normal(50, 3, 100_000)
    pooled = pool(
        [measure_intensity(v[None, None], np.ones((1, 1, v.size), bool)) for v in (small, large)]
    )
    balanced = np.concatenate([np.tile(small, 10_000), large])  # the slow, obvious way
    assert pooled.mean == pytest.approx(balanced.mean())
    assert pooled.std == pytest.approx(balanced.std())
    assert (pooled.minimum, pooled.maximum) == (balanced.min(), balanced.max())
    assert pooled.p50 == pytest.approx((np.median(small) + np.median(large)) / 2)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(0, 1e3)), min_size=1, max_size=6))
def test_the_pooled_deviation_is_at_least_the_mean_one(cases):
    pooled = pool([Intensity(mean, std, *[0.0] * 8) for mean, std in cases])
    assert pooled.std**2 >= np.mean([std**2 for _, std in cases]) * (1 - 1e-9)
    assert pooled.mean == pytest.approx(np.mean([mean for mean, _ in cases]), abs=1e-6)


def test_channels_are_pooled_one_by_one():
    first, second = (Intensity(*[float(i)] * 10) for i in (1, 2))
    case = CaseFingerprint("a", (1, 2, 3), SPACING, 0.5, "given", (first, second), first)
    facts = summarise("Dataset001_X", [case, case], ["T1", "FLAIR"], "T2")
    assert [item.mean for item in facts.sources] == [1.0, 2.0]
    assert facts.channel_names == ("T1", "FLAIR")


def test_no_cases_are_refused():
    with pytest.raises(DatasetError, match="no training cases"):
        summarise("Dataset001_X", [], ["MR"], "CT")
