import numpy as np
import pytest
from metrics.oracles import slow_mae, slow_masked_ssim, slow_ms_ssim, slow_psnr

from gdmnet.data.volume import read_volume
from gdmnet.metrics.conventions import CONVENTIONS, DataRange
from gdmnet.metrics.evaluation import METRICS, score
from gdmnet.metrics.image import data_range, mae, psnr
from gdmnet.metrics.plausibility import PLAUSIBILITY, plausibility
from gdmnet.metrics.similarity import ms_ssim, ssim

SPACING = (3.0, 1.0, 1.0)
CHALLENGES = {"synthrad2023": 3000, "synthrad2025": 3071, "synthrad2025-3000": 3000}


@pytest.fixture
def case(rng):
    """A CT-like pair with values beyond the clips, and a mask."""
    mask = np.zeros((12, 26, 30), dtype=np.uint8)
    mask[1:11, 3:23, 4:26] = 1
    reference = np.where(mask, rng.normal(0, 900, mask.shape), -1000)
    reference[5, 10:14, 10:14] = 3500
    prediction = reference + rng.normal(0, 400, mask.shape) - 60
    return prediction.astype(np.float32), reference.astype(np.float32), mask


@pytest.mark.parametrize("name", CHALLENGES)
def test_the_challenges_figures_are_those_of_their_formulas(case, name):
    found = score(*case, SPACING, convention=name)
    low, high = -1024, CHALLENGES[name]
    assert found["mae"] == pytest.approx(slow_mae(*case), abs=1e-6)
    assert found["psnr"] == pytest.approx(slow_psnr(*case, low, high), abs=1e-6)
    assert found["ssim"] == pytest.approx(slow_masked_ssim(*case, low, high), abs=1e-6)
    assert found["ms_ssim"] == pytest.approx(slow_ms_ssim(*case, low, high), abs=1e-6)
    assert found["data_range"] == high - low


def test_the_two_ranges_of_2025_differ_by_the_known_part_of_a_decibel(case):
    prediction, reference, mask = (np.clip(a, -1024, 2900) for a in case)
    wide, narrow = (
        score(prediction, reference, mask, SPACING, convention=name)["psnr"]
        for name in ("synthrad2025", "synthrad2025-3000")
    )
    assert wide - narrow == pytest.approx(20 * np.log10(4095 / 4024), abs=1e-9)


def test_gdmnets_own_clips_only_in_ms_ssim(case):
    found = score(*case, SPACING)
    assert found["mae"] == mae(*case)
    assert found["psnr"] == psnr(*case, 4095.0)
    assert found["ssim"] == ssim(*case, DataRange(-1024.0, 4095.0))
    assert found["ms_ssim"] == ms_ssim(*case, DataRange(-1024.0, 4095.0))
    assert found["psnr"] != score(*case, SPACING, convention="synthrad2025")["psnr"]


def test_sparse_ct_clips_everything_and_repeats_it_in_windows(case):
    found = score(*case, SPACING, convention="sparse-ct")
    prediction, reference, mask = case
    for suffix, low, high in (
        ("", -1024, 3071),
        ("_window_soft", -160, 240),
        ("_window_lung", -1000, 400),
    ):
        images = [np.clip(image, low, high) for image in (prediction, reference)]
        assert found[f"mae{suffix}"] == pytest.approx(slow_mae(*images, mask), abs=1e-4)
        assert found[f"psnr{suffix}"] == pytest.approx(
            slow_psnr(prediction, reference, mask, low, high), abs=1e-6
        )
        expected = ssim(*images, mask, DataRange(low, high - low))
        assert found[f"ssim{suffix}"] == pytest.approx(expected, abs=1e-9)
    assert not any("window" in name for name in score(*case, SPACING))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_convention_has_every_metric_bands_and_plausibility(case, convention):
    found = score(*case, SPACING, convention=convention)
    assert set(METRICS) <= set(found)
    assert {"mae_air", "bias_soft", "bias_bone", "data_range"} <= set(found)
    prediction, reference, mask = case
    direct = plausibility(prediction, reference, mask, SPACING, hounsfield=True)
    assert {name: found[name] for name in PLAUSIBILITY} == direct
    without = score(*case, SPACING, convention=convention, with_plausibility=False)
    assert not set(PLAUSIBILITY) & set(without)


def test_images_without_a_unit_have_no_bands_and_their_own_range(case):
    prediction, reference, mask = (np.abs(image) for image in case)
    found = score(prediction, reference, mask, SPACING)
    assert "mae_soft" not in found
    assert found["data_range"] == data_range(reference, mask).width
    assert found["histogram_w1"] < 1  # in shares of the range


@pytest.mark.real
@pytest.mark.parametrize("damage", ["noise", "bias"])
def test_the_challenges_figures_of_a_real_scan_are_those_of_the_slow_oracle(shared, rng, damage):
    image = read_volume(shared / "data/ct/train/ct_okbp_pt_101.nii.gz").array[0]
    reference = image[:64, 20:100, 20:100]
    noise = rng.normal(0, 60, reference.shape).astype(np.float32) if damage == "noise" else 20
    case = reference + noise, reference, reference > -500
    found = score(*case, SPACING, convention="synthrad2025", with_plausibility=False)
    assert found["mae"] == pytest.approx(slow_mae(*case), abs=1e-6)
    assert found["psnr"] == pytest.approx(slow_psnr(*case, -1024, 3071), abs=1e-6)
    assert found["ms_ssim"] == pytest.approx(slow_ms_ssim(*case, -1024, 3071), abs=1e-6)
    found = score(*case, SPACING, convention="synthrad2023", with_plausibility=False)
    assert found["ssim"] == pytest.approx(slow_masked_ssim(*case, -1024, 3000), abs=1e-6)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_values_are_plain_numbers(case, name):
    found = score(*case, SPACING, convention=name)
    assert {type(value) for value in found.values()} <= {float, type(None)}
