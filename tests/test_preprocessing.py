"""Files to network units and back: the same for training and prediction, exact where it can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_models import shift_qform

from gdmnet.arrays.body import body_mask, inscribed_circle
from gdmnet.arrays.crop import crop
from gdmnet.arrays.normalise import background_value
from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.store import open_case, placed_as_prepared
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.errors import DatasetError
from gdmnet.folders import NIFTI_FORM, nifti_form
from gdmnet.geometry import Geometry, nearest_lps
from gdmnet.plan import Architecture, Configuration, Normalisation
from gdmnet.preprocessing import (
    is_prepared,
    preparation_sha256,
    prepare,
    prepare_and_store,
    prepare_volumes,
    restore,
    source_normalisations,
)

SHAPE = (13, 31, 36)
SPACING = (3.0, 1.1, 1.3)
IDENTITY = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
CT = Normalisation("ct", 40.0, 500.0, -1024.0, 3071.0, -1024.0)
ZSCORE = Normalisation("zscore", 0.0, 1.0, None, None, 0.0)
PERCENTILES = Normalisation("percentiles", 50.0, 700.0, None, None, 0.0)


def configure(sources=(ZSCORE,), target=CT, *, spacing=SPACING, residual_channel=None):
    architecture = Architecture((16,), ((3, 3, 3),), ((1, 1, 1),), (1,))
    return Configuration(
        "3d_fullres",
        spacing,
        SHAPE,
        (8, 16, 16),
        2,
        architecture,
        sources,
        target,
        residual_channel,
        0,
        {},
    )


def make_patient(shape=SHAPE):
    """MR with noise in the air, CT in HU with integer values, body; nothing symmetric."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = (z / 2) ** 2 + ((y - 0.1) / 0.7) ** 2 + ((x + 0.05 * y) / 0.6) ** 2 < 1
    bone = (z / 2) ** 2 + ((y + 0.2) / 0.2) ** 2 + ((x - 0.2) / 0.3) ** 2 < 1
    texture = rng.normal(0, 15, shape)
    mr = np.abs(np.where(body, 300 + 100 * y, 5) - 200 * bone + texture)
    ct = np.rint(np.where(body, 30, -1000) + 600 * bone + texture)
    return mr.astype(np.float32), ct.astype(np.float32), body.astype(np.uint8)


def geometry_of(shape=SHAPE, itk_direction=IDENTITY, spacing=SPACING):
    """The geometry of a file whose array is `shape` in LPS, stored along `itk_direction`."""
    axes, flips = nearest_lps(itk_direction)
    return Geometry(shape, spacing, (3.0, -40.0, 12.5), itk_direction, axes, flips)


def write_case(folder, arrays, geometry, *, ending=".nii.gz"):
    folder.mkdir(exist_ok=True)
    names = {name: folder / f"{name}{ending}" for name in arrays}
    for name, array in arrays.items():
        write_volume(names[name], Volume(array[None].astype(np.float32), geometry))
    return CaseFiles("p", (names["source"],), names.get("target"), names.get("mask"))


def test_a_perfect_network_gives_the_hounsfield_units_back(tmp_path):
    # identity network, CT to CT, planned spacing = own spacing: only rounding may remain
    _, ct, body = make_patient()
    files = write_case(tmp_path, {"source": ct, "target": ct, "mask": body}, geometry_of())
    configuration = configure((replace(CT, centre=7.0, scale=90.0),), CT, residual_channel=0)
    case = prepare(files, configuration)
    np.testing.assert_array_equal(case.source[0][case.body == 1], case.target[0][case.body == 1])
    restored = restore(case.source, case.record, CT, body=case.body)
    assert restored.shape == (1, *SHAPE)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored[0][body == 1], ct[body == 1], atol=1e-3)
    assert (restored[0][body == 0] == -1024).all()


def test_a_target_with_its_own_percentiles_comes_back_too(tmp_path):
    mr, ct, body = make_patient()
    files = write_case(tmp_path, {"source": ct, "target": mr, "mask": body}, geometry_of())
    case = prepare(files, configure((CT,), PERCENTILES))
    own = case.record.target
    low, high = np.percentile(mr[body == 1], (1, 99))
    assert own.centre == pytest.approx(low)
    assert own.scale == pytest.approx(high - low)
    restored = restore(case.target, case.record, own, body=case.body)
    np.testing.assert_allclose(restored[0][body == 1], mr[body == 1], atol=1e-3)
    assert (restored[0][body == 0] == 0).all()


def test_another_spacing_changes_the_grid_and_not_the_place(tmp_path):
    # a linear ramp survives cubic resampling: each axis is told apart by its own slope
    z, y, x = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    ramp = 1.0 * z + 10.0 * y + 0.3 * x
    body = np.zeros(SHAPE, dtype=np.uint8)
    body[4:10, 8:24, 9:29] = 1
    files = write_case(tmp_path, {"source": ramp, "target": ramp, "mask": body}, geometry_of())
    flat = Normalisation("none", 0.0, 1.0, None, None, 0.0)
    case = prepare(files, configure((flat,), flat, spacing=(1.5, 2.2, 1.3)))
    assert case.record.box == ((2, 12), (6, 26), (7, 31))
    assert case.record.shape == (20, 10, 24)
    assert case.source.shape == case.target.shape == (1, 20, 10, 24)
    assert case.source[0, 10, 5, 12] == pytest.approx(
        (2 + 10.5 / 2 - 0.5) + 10 * (6 + 5.5 * 2 - 0.5) + 0.3 * (7 + 12), abs=0.05
    )
    restored = restore(case.source, case.record, flat, body=case.body)[0]
    inner = (slice(5, 9), slice(12, 20), slice(12, 26))
    np.testing.assert_allclose(restored[inner], ramp[inner], atol=0.1)
    assert (restored[0] == 0).all()


@pytest.mark.parametrize("residual_channel", [None, 0])
def test_one_patient_stored_in_four_orientations_is_one_case(tmp_path, residual_channel):
    orientations = {
        "LPS": IDENTITY,
        "RAS": (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0),
        "PIR": (0, 0, -1.0, 1.0, 0, 0, 0, -1.0, 0),
        "sagittal": (0, 0, 1.0, 1.0, 0, 0, 0, 1.0, 0),
    }
    mr, ct, _ = make_patient()
    configuration = configure(
        (CT if residual_channel == 0 else ZSCORE,),
        spacing=(2.0, 1.5, 1.5),
        residual_channel=residual_channel,
    )
    source = ct if residual_channel == 0 else mr
    predictions = {}
    for name, direction in orientations.items():
        geometry = geometry_of(itk_direction=direction)
        files = write_case(tmp_path / name, {"source": source, "target": ct}, geometry)
        case = prepare(files, configuration)
        network = 0.7 * case.source + 0.1 * np.roll(case.source, 1, axis=3)  # sees handedness
        prediction = restore(network, case.record, CT, body=case.body)
        path = tmp_path / name / "prediction.nii.gz"
        write_volume(path, Volume(prediction, case.record.geometry), integer=True)
        predictions[name] = read_volume(path)
        assert predictions[name].geometry.itk_direction == pytest.approx(direction)
    for name in orientations:
        np.testing.assert_array_equal(predictions[name].array, predictions["LPS"].array)
    assert len(np.unique(predictions["LPS"].array)) > 50


def test_training_and_prediction_see_the_same_source(tmp_path):
    mr, ct, _ = make_patient()
    files = write_case(tmp_path, {"source": mr, "target": ct}, geometry_of())
    configuration = configure(spacing=(2.0, 1.5, 1.5))
    training = prepare(files, configuration)
    prediction = prepare(replace(files, target=None), configuration)
    np.testing.assert_array_equal(training.source, prediction.source)
    np.testing.assert_array_equal(training.body, prediction.body)
    assert prediction.target is None
    assert prediction.record == replace(training.record, target=None)


def test_without_a_mask_the_body_is_found_in_the_sources_and_the_rule_noted(tmp_path):
    mr, ct, body = make_patient()
    files = write_case(tmp_path, {"source": mr, "target": ct, "mask": body}, geometry_of())
    assert prepare(files, configure()).record.mask_rule == "given"
    expected, rule = body_mask(mr[None], SPACING, [False])
    case = prepare(replace(files, mask=None), configure())
    assert case.record.mask_rule == rule == "otsu"
    (z0, z1), (y0, y1), (x0, x1) = case.record.box
    np.testing.assert_array_equal(case.body, expected[z0:z1, y0:y1, x0:x1])
    masked = write_case(tmp_path / "zero", {"source": mr * body, "target": ct}, geometry_of())
    assert prepare(masked, configure()).record.mask_rule == "non-zero"
    of_ct = write_case(tmp_path / "ct", {"source": ct, "target": mr}, geometry_of())
    assert prepare(of_ct, configure((CT,), PERCENTILES)).record.mask_rule == "above -500 HU"


def test_outside_the_body_the_source_keeps_its_values_and_the_target_is_background(tmp_path):
    mr, ct, body = make_patient()
    files = write_case(tmp_path, {"source": mr, "target": ct, "mask": body}, geometry_of())
    none = Normalisation("none", 0.0, 1.0, None, None, 0.0)
    case = prepare(files, configure((none,)))
    (z0, z1), (y0, y1), (x0, x1) = case.record.box
    np.testing.assert_array_equal(case.source[0], mr[z0:z1, y0:y1, x0:x1])
    outside = case.body == 0
    assert outside.any()
    assert (case.target[0][outside] == np.float32(background_value(CT))).all()


def test_the_numbers_of_a_source_come_from_its_body_only(tmp_path):
    mr, ct, body = make_patient()
    mr[body == 0] += 10_000
    files = write_case(tmp_path, {"source": mr, "target": ct, "mask": body}, geometry_of())
    case = prepare(files, configure())
    inside = case.source[0][case.body == 1]
    assert inside.mean() == pytest.approx(0, abs=1e-3)
    assert inside.std() == pytest.approx(1, abs=1e-3)


def test_the_residual_channel_has_the_target_units_where_these_are_the_datasets():
    other = replace(CT, centre=0.0, scale=1.0)
    assert source_normalisations(configure((ZSCORE, other), residual_channel=1)) == (ZSCORE, CT)
    assert source_normalisations(configure((ZSCORE, other))) == (ZSCORE, other)
    same = configure((ZSCORE,), PERCENTILES, residual_channel=0)
    assert source_normalisations(same) == (ZSCORE,)  # a target's percentiles are not known ahead


def test_several_channels_are_normalised_each_by_its_own():
    mr, ct, body = make_patient()
    source = Volume(np.stack([mr, ct]), geometry_of())
    mask = Volume(body[None].astype(np.float32), geometry_of())
    case, _ = prepare_volumes("p", source, configure((ZSCORE, CT)), mask=mask)
    inside = case.body == 1
    assert case.source.shape[0] == 2
    assert case.source[0][inside].mean() == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(case.source[1][inside] * 500 + 40, ct[body == 1], atol=1e-2)


@pytest.mark.parametrize("shape", [(1, 31, 36), (2, 31, 36), (13, 1, 36), (13, 31, 1)])
def test_single_slices_and_thin_volumes_pass(shape):
    mr, ct, _ = make_patient(shape)
    source, target = (Volume(array[None], geometry_of(shape)) for array in (mr, ct))
    case, _ = prepare_volumes("p", source, configure(spacing=(2.0, 1.5, 1.5)), target=target)
    restored = restore(case.target, case.record, CT, body=case.body)
    assert restored.shape == (1, *shape)
    assert np.isfinite(restored).all()


def test_a_body_thinner_than_the_new_grid_is_not_lost():
    mr, ct, _ = make_patient()
    speck = np.zeros((1, *SHAPE), dtype=np.float32)
    speck[0, 6, 15, 18] = 1
    source, target, mask = (Volume(a, geometry_of()) for a in (mr[None], ct[None], speck))
    case, _ = prepare_volumes(
        "p", source, configure(spacing=(40.0, 40.0, 40.0)), target=target, mask=mask
    )
    assert case.body.tolist() == [[[1]]]


def test_what_does_not_fit_is_refused_with_the_case(tmp_path):
    mr, ct, body = make_patient()
    files = write_case(tmp_path, {"source": mr, "target": ct, "mask": 0 * body}, geometry_of())
    with pytest.raises(DatasetError, match="case p: the mask is empty"):
        prepare(files, configure())
    with pytest.raises(DatasetError, match="case p: 1 source channels, but the plan has 2"):
        prepare(files, configure((ZSCORE, ZSCORE)))
    moved = replace(geometry_of(), itk_origin=(9.0, -40.0, 12.5))
    other = write_case(tmp_path / "moved", {"source": mr, "target": ct, "mask": body}, moved)
    with pytest.raises(DatasetError, match=r"case p: the mask has another grid .*origin"):
        prepare(replace(files, mask=other.mask), configure())
    with pytest.raises(DatasetError, match=r"case p: the target has another grid .*origin"):
        prepare(replace(files, target=other.target), configure())


def test_a_stored_case_is_the_prepared_case_with_digests_of_its_files(tmp_path):
    mr, ct, _ = make_patient()
    files = write_case(tmp_path / "raw", {"source": mr, "target": ct}, geometry_of())
    prepare_and_store(files, configure(), tmp_path / "cases")
    case, stored = prepare(files, configure()), open_case(tmp_path / "cases", "p")
    assert stored.record == replace(
        case.record, digests=files.digests(), decided_by=preparation_sha256(configure())
    )
    np.testing.assert_array_equal(stored.source[...], case.source)
    np.testing.assert_array_equal(stored.target[...], case.target)
    np.testing.assert_array_equal(stored.body[...], case.body)
    assert set(stored.record.digests) == {"0000", "target"}


@pytest.fixture
def folder_with_a_case(tmp_path):
    mr, ct, _ = make_patient()
    files = write_case(tmp_path / "raw", {"source": mr, "target": ct}, geometry_of())
    prepare_and_store(files, configure(), tmp_path / "cases")
    return tmp_path / "cases", files.digests()


def test_a_bias_correction_is_the_same_in_training_and_at_prediction(tmp_path):
    mr, ct, body = make_patient()
    field = np.exp(np.linspace(-0.6, 0.6, SHAPE[2]))
    arrays = {"source": mr * field, "target": ct, "mask": body}
    files = write_case(tmp_path, arrays, geometry_of())
    corrected = replace(configure(), bias_correction="n4")
    training = prepare(replace(files, mask=None), corrected)
    prediction, source = prepare_volumes("p", read_volume(files.sources[0]), corrected)
    np.testing.assert_array_equal(training.source, prediction.source)
    plain = prepare(replace(files, mask=None), configure())
    np.testing.assert_array_equal(training.body, plain.body)
    np.testing.assert_array_equal(training.target, plain.target)
    assert (training.source != plain.source).any()
    # the mask changes what is prepared, but not the field that is divided out
    _, with_mask = prepare_volumes(
        "p", read_volume(files.sources[0]), corrected, mask=read_volume(files.mask)
    )
    np.testing.assert_array_equal(with_mask.array, source.array)


def test_a_whole_field_of_view_counts_but_the_patient_gives_the_numbers(tmp_path):
    mr, ct, _ = make_patient()
    ct[:, 28:30, 5:30] = 200  # a couch
    files = write_case(tmp_path, {"source": mr, "target": ct}, geometry_of())
    plain, whole = configure(), replace(configure(), region="circle")
    of_body, case = prepare(files, plain), prepare(files, whole)
    assert of_body.patient is None
    assert case.record.mask_rule == "circle"
    patient, _ = body_mask(mr[None], SPACING, [False])
    circle = np.maximum(inscribed_circle(SHAPE, SPACING), patient)
    np.testing.assert_array_equal(case.body, crop(circle, case.record.box))
    restored = restore(case.target, case.record, CT, body=case.body)[0]
    expected = np.maximum(ct, -1024)[circle != 0]
    np.testing.assert_allclose(restored[circle != 0], expected, atol=1e-3)
    assert (restored[circle == 0] == -1024).all()
    everything = prepare(files, replace(configure(), region="everything"))
    assert everything.body.shape == SHAPE
    assert everything.body.all()
    # the source is normalised by its values in the patient, as where only the body counts
    box = of_body.record.box
    np.testing.assert_array_equal(crop(everything.source, box), of_body.source)
    np.testing.assert_array_equal(crop(everything.patient, box), of_body.body)
    # and so is a target with numbers of its own
    own = replace(configure(), target=PERCENTILES)
    units = [prepare(files, replace(own, region=r)).record.target for r in ("body", "everything")]
    assert units[0] == units[1]
    at_prediction = prepare(replace(files, target=None), whole)
    np.testing.assert_array_equal(at_prediction.source, case.source)
    np.testing.assert_array_equal(at_prediction.body, case.body)


def test_patches_lie_around_the_patient_where_a_whole_field_of_view_counts(tmp_path):
    mr, ct, _ = make_patient()
    files = write_case(tmp_path / "raw", {"source": mr, "target": ct}, geometry_of())
    configuration = replace(configure(), region="everything")
    prepare_and_store(files, configuration, tmp_path / "cases")
    stored, case = open_case(tmp_path / "cases", "p"), prepare(files, configuration)
    assert stored.body[:].all()
    assert case.patient[tuple(stored.centres.T)].all()
    assert case.patient.mean() < 0.9


def test_a_given_mask_decides_in_a_whole_field_of_view_too(tmp_path):
    mr, ct, body = make_patient()
    files = write_case(tmp_path, {"source": mr, "target": ct, "mask": body}, geometry_of())
    case = prepare(files, replace(configure(), region="everything"))
    assert case.record.mask_rule == "given"
    assert case.patient is None


def test_a_case_that_the_other_form_placed_is_prepared_anew(tmp_path, monkeypatch):
    mr, ct, _ = make_patient()
    files = write_case(tmp_path / "raw", {"source": mr, "target": ct}, geometry_of())
    for path in (*files.sources, files.target):
        shift_qform(path, 5.0)
    monkeypatch.setenv(NIFTI_FORM, "sform")
    prepare_and_store(files, configure(), tmp_path / "cases")
    assert is_prepared(tmp_path / "cases", "p", files.digests(), configure())
    monkeypatch.setenv(NIFTI_FORM, "qform")
    assert not is_prepared(tmp_path / "cases", "p", files.digests(), configure())


def test_both_forms_in_one_folder_are_refused(tmp_path, monkeypatch):
    mr, ct, _ = make_patient()
    for form in ("", "sform", "qform"):
        files = write_case(tmp_path / f"raw{form}", {"source": mr, "target": ct}, geometry_of())
        if form:
            shift_qform(files.sources[0], 5.0)
            shift_qform(files.target, 5.0)
        monkeypatch.setenv(NIFTI_FORM, form)
        case = replace(files, identifier=f"case{form}")
        prepare_and_store(case, configure(), tmp_path / "cases")
        monkeypatch.setenv(NIFTI_FORM, "")
        if form != "qform":
            with placed_as_prepared(tmp_path / "cases"):
                assert nifti_form() == (form or None)
            assert nifti_form() is None  # what comes after a training in Python is its own
    both = pytest.raises(DatasetError, match="placed by both forms")
    with both, placed_as_prepared(tmp_path / "cases"):
        pass


def test_a_stored_case_counts_for_its_files_and_for_what_decides_it(folder_with_a_case):
    folder, digests = folder_with_a_case
    assert is_prepared(folder, "p", digests, replace(configure(), batch_size=5))
    for changes in (
        {"spacing": (2.0, 1.0, 1.0)},
        {"region": "circle"},
        {"bias_correction": "n4"},
        {"target": replace(configure().target, scale=7.0)},
    ):
        assert not is_prepared(folder, "p", digests, replace(configure(), **changes))
    assert not is_prepared(folder, "p", digests | {"mask": "0"}, configure())
    assert not is_prepared(folder, "q", digests, configure())
    (folder / "p" / "case.json").write_text("{")
    assert not is_prepared(folder, "p", digests, configure())
