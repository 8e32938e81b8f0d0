from dataclasses import replace
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet import __version__, codec
from gdmnet.errors import PlanError
from gdmnet.plan import CaseFingerprint, Fingerprint, Intensity, Plan
from gdmnet.planning.memory import most_samples
from gdmnet.planning.planner import PLANNED, choose_spacing, make_plan
from gdmnet.planning.table import plan_table

SOME = Intensity(300.0, 200.0, -1024.0, 1700.0, 3.0, 10.0, 330.0, 790.0, 840.0, 0.0)


def facts(shapes, spacings, sources=("MRI",), target="CT"):
    cases = tuple(
        CaseFingerprint(f"case{i}", shape, spacing, 0.5, "otsu", (SOME,) * len(sources), SOME)
        for i, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True))
    )
    many = (SOME,) * len(sources)
    return Fingerprint(1, "Dataset001_X", tuple(sources), target, cases, many, SOME)


def alike(shape, spacing, n=20, **names):
    return facts([shape] * n, [spacing] * n, **names)


def planned(fingerprint, preset="M", memory_gb=8.0):
    return make_plan(
        fingerprint,
        file_ending=".nii.gz",
        preset=preset,
        memory_gb=memory_gb,
        preset_reason="for this test",
    )


def test_the_spacing_is_the_median_of_the_cases():
    spacings = [(1.0, 2.0, 3.0), (1.5, 2.0, 2.0), (3.0, 2.5, 2.5)]
    assert choose_spacing(facts([(90, 90, 90)] * 3, spacings))[0] == (1.5, 2.0, 2.5)


def test_an_anisotropic_dataset_keeps_its_thinner_slices():
    spacings = [(z, 0.8, 1.0) for z in (2.0, 4.0, 5.0, 5.0, 6.0)]
    spacing, reason = choose_spacing(facts([(30, 400, 400)] * 5, spacings))
    assert spacing == pytest.approx((2.8, 0.8, 1.0))  # the 10th percentile
    assert "10th percentile" in reason
    many_slices = choose_spacing(facts([(300, 400, 400)] * 5, spacings))
    assert many_slices[0] == (5.0, 0.8, 1.0)


def test_the_fine_slices_are_floored_at_the_plane():
    spacings = [(0.5, 1.0, 1.0)] * 2 + [(5.0, 1.0, 1.0)] * 3
    spacing, _ = choose_spacing(facts([(30, 400, 400)] * 5, spacings))
    assert spacing == pytest.approx((1.00001, 1.0, 1.0), abs=1e-9)


def test_single_slices_never_become_two():
    spacings = [(3.0, 1.0, 1.0), (3.0, 1.0, 1.0), (10.0, 1.0, 1.0)]
    fingerprint = facts([(1, 200, 200)] * 3, spacings)
    assert choose_spacing(fingerprint)[0] == (10.0, 1.0, 1.0)
    plan = planned(fingerprint)
    assert plan.configurations["3d_fullres"].median_shape == (1, 200, 200)


def test_a_plan_says_what_was_decided_and_why():
    plan = planned(alike((110, 400, 560), (2.5, 1.0, 1.0)))
    fullres = plan.configurations["3d_fullres"]
    assert (plan.version, plan.preset, plan.memory_gb) == (__version__, "M", 8.0)
    assert plan.integer_output
    assert fullres.name == "3d_fullres"
    assert fullres.patch_size == (32, 128, 192)
    assert fullres.batch_size == 2
    assert fullres.residual_channel is None
    keys = {"spacing", "patch_size", "batch_size", "memory", "depth", "normalisation", "residual"}
    assert set(fullres.reasons) == keys
    assert all(reason.endswith(".") for reason in fullres.reasons.values())
    assert plan.reasons["preset"] == "M: for this test."


def test_a_plan_is_read_back_as_it_was_written(tmp_path):
    plan = planned(alike((110, 400, 560), (2.5, 1.0, 1.0), sources=("CBCT", "MR")))
    assert plan.configurations["3d_fullres"].residual_channel == 0
    codec.save(plan, tmp_path / "plan.json")
    assert codec.load(Plan, tmp_path / "plan.json") == plan


def test_targets_without_a_unit_are_written_as_float():
    assert not planned(alike((60, 60, 60), (1.0, 1.0, 1.0), target="T2")).integer_output


@pytest.mark.parametrize(("n_cases", "batch"), [(2, 2), (60, 3), (1000, None)])
def test_a_batch_is_what_fits_but_a_twentieth_of_the_dataset_at_most(n_cases, batch):
    plan = planned(alike((128, 160, 160), (1.6, 1.6, 1.6), n=n_cases), "L", 40.0)
    fullres = plan.configurations["3d_fullres"]
    assert fullres.patch_size == (128, 160, 160)
    fitting = most_samples(fullres.architecture, fullres.patch_size, 40.0)
    assert fitting > 3
    assert fullres.batch_size == (batch or fitting)


def test_a_lowres_shows_a_quarter_of_the_patient():
    plan = planned(alike((200, 230, 200), (1.0, 1.0, 1.0)), "cpu")
    assert tuple(plan.configurations) == PLANNED
    lowres = plan.configurations["3d_lowres"]
    share = prod(lowres.patch_size) / prod(lowres.median_shape)
    assert 0.25 <= share < 0.3
    assert lowres.spacing[0] == lowres.spacing[1] == lowres.spacing[2] > 2


def test_a_lowres_first_coarsens_the_fine_axes():
    plan = planned(alike((110, 400, 560), (2.5, 0.5, 0.5)))
    lowres = plan.configurations["3d_lowres"]
    assert lowres.spacing[1] / 0.5 > lowres.spacing[0] / 2.5 >= 1


def test_there_is_no_lowres_where_the_patch_shows_enough():
    plan = planned(alike((128, 160, 160), (1.6, 1.6, 1.6)))
    assert tuple(plan.configurations) == ("3d_fullres",)
    assert "enough" in plan.reasons["configurations"]


def test_there_is_no_lowres_that_would_hardly_be_coarser():
    plan = planned(alike((80, 80, 80), (1.0, 1.0, 1.0)), "cpu")
    assert tuple(plan.configurations) == ("3d_fullres",)
    assert "hardly coarser" in plan.reasons["configurations"]


def test_a_lowres_keeps_the_slices_of_a_thin_stack():
    plan = planned(alike((6, 900, 900), (0.6, 0.5, 0.5)), "cpu")
    lowres = plan.configurations["3d_lowres"]
    assert lowres.spacing[0] == 0.6
    assert lowres.median_shape[0] == lowres.patch_size[0] == 6


@pytest.mark.parametrize("slices", [1, 2, 3, 5, 7, 10])
@pytest.mark.parametrize("preset", ["cpu", "M"])
def test_thin_volumes_get_kernels_and_strides_of_one(slices, preset):
    plan = planned(alike((slices, 250, 260), (4.0, 1.0, 1.0)), preset)
    for configuration in plan.configurations.values():
        assert configuration.patch_size[0] <= slices
        assert {kernel[0] for kernel in configuration.architecture.kernels} == {1}
        assert {stride[0] for stride in configuration.architecture.strides} == {1}


@pytest.mark.parametrize(("rule", "region"), [("given", "body"), ("circle", "circle")])
def test_a_model_that_saw_masks_only_shows_the_body_only(rule, region):
    fingerprint = alike((64, 64, 64), (1.0, 1.0, 1.0))
    cases = tuple(replace(case, mask_rule=rule) for case in fingerprint.cases)
    plan = planned(replace(fingerprint, cases=cases, region="circle"))
    fullres = plan.configuration("3d_fullres")
    assert fullres.region == region
    assert ("never seen" in fullres.reasons["region"]) == (rule == "given")


def test_an_unknown_preset_and_an_empty_dataset_are_refused():
    with pytest.raises(PlanError, match="unknown; choose one of cpu, S, M, L"):
        planned(alike((60, 60, 60), (1.0, 1.0, 1.0)), "XL")
    with pytest.raises(PlanError, match="no training cases"):
        planned(facts([], []))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.sampled_from([0.5, 1.0, 1.7, 3.0, 6.0])] * 3),
    st.tuples(*[st.one_of(st.integers(1, 12), st.integers(20, 400))] * 3),
    st.sampled_from(["cpu", "S", "M", "L"]),
)
def test_every_dataset_gets_a_plan_and_a_table(spacing, shape, preset):
    plan = planned(alike(shape, spacing), preset)
    assert plan.configurations["3d_fullres"].median_shape == shape
    for configuration in plan.configurations.values():
        assert configuration.batch_size >= 2
        assert configuration.feature_map_voxels > 0
    assert max(map(len, plan_table(plan).splitlines())) <= 100


def test_the_table_tells_each_decision_and_its_reason_once():
    plan = planned(alike((200, 230, 200), (1.0, 1.0, 1.0), sources=("T1", "FLAIR")), "cpu")
    table = plan_table(plan)
    words = " ".join(table.split())
    for configuration in plan.configurations.values():
        for reason in configuration.reasons.values():
            assert words.count(reason) == 1
    for reason in plan.reasons.values():
        assert reason in words
    assert "patch size 48 x 48 x 48" in words
    assert "T1, FLAIR to CT" in table.splitlines()[0]
    assert "strides 1x1x1, 2x2x2, 2x2x2, 2x2x2" in words
