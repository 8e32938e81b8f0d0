import dataclasses
import multiprocessing
import random
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from batchgenerators.augmentations.utils import create_zero_centered_coordinate_mesh
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet.data.case import Case
from gdmnet.data.store import open_case, save_case
from gdmnet.errors import DatasetError, TrainingError
from gdmnet.objectives.base import Batch
from gdmnet.training import augment
from gdmnet.training.batches import Batches, patch_start, prefetched, read_patch

FIRST = [(0, step) for step in range(50)]
PARTS = ("source", "target", "mask")
sizes = st.tuples(*[st.integers(1, 9)] * 3)


def _equal(first, second):
    return all(torch.equal(getattr(first, part), getattr(second, part)) for part in PARTS)


@pytest.fixture
def cases(make_noise_case):
    return [make_noise_case(seed=i, name=f"case{i}") for i in range(3)]


@pytest.fixture
def augmented(cases, make_configuration):
    return Batches(cases, make_configuration(schemes=("zscore",)), seed=3, augment=True)


def test_a_batch_has_the_promised_shape_and_type(augmented):
    batch = augmented.batch(0, 0)
    for part in PARTS:
        tensor = getattr(batch, part)
        assert tensor.shape == (2, 1, 8, 8, 8)
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
    assert set(batch.mask.unique().tolist()) <= {0.0, 1.0}


def test_a_batch_is_a_function_of_its_arguments_alone(augmented, cases, make_configuration):
    expected = [augmented.batch(e, s) for e in range(2) for s in range(6)]
    again = Batches(cases, make_configuration(schemes=("zscore",)), seed=3, augment=True)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    for index in reversed(range(12)):
        assert _equal(again.batch(*divmod(index, 6)), expected[index])


def test_making_a_batch_leaves_the_global_generators_alone(augmented):
    states = random.getstate(), torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    augmented.batch(0, 0)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert str(np.random.get_state()) == states[2]  # noqa: NPY002


def test_seed_epoch_step_and_rank_all_matter(cases, make_configuration):
    batches = Batches(cases, make_configuration(), seed=3, augment=False)
    other = Batches(cases, make_configuration(), seed=4, augment=False)
    first = batches.batch(0, 0, 0)
    for different in (batches.batch(1, 0), batches.batch(0, 1), batches.batch(0, 0, 1)):
        assert not _equal(first, different)
    assert not _equal(first, other.batch(0, 0, 0))
    alone = Batches(cases[:1], make_configuration(), seed=3, augment=False)
    assert not _equal(alone.batch(0, 0, 0), alone.batch(0, 0, 1))


def test_plain_patches_are_pieces_of_the_volumes(cases, make_configuration):
    batches = Batches(cases, make_configuration(), seed=3, augment=False)
    batch = batches.batch(0, 0)
    for i in range(2):
        patch = batch.source[i, 0].numpy()
        windows = [
            (case, np.argwhere(case.source[0, :5, :7, :9] == patch[0, 0, 0])) for case in cases
        ]
        (case, corner), *others = [(c, w[0]) for c, w in windows if len(w)]
        assert not others
        box = tuple(slice(s, s + 8) for s in corner)
        np.testing.assert_array_equal(patch, case.source[(0, *box)])
        np.testing.assert_array_equal(batch.target[i, 0], case.target[(0, *box)])
        np.testing.assert_array_equal(batch.mask[i, 0], case.body[box])


def test_source_target_and_mask_stay_aligned_under_augmentation(make_case, make_configuration):
    """Linear interpolation carries an affine relation through, backgrounds included."""
    rng = np.random.default_rng(0)
    shape = (10, 11, 9)  # larger patches reach over the border
    body = (rng.random(shape) < 0.6).astype(np.uint8)
    source = np.stack([rng.normal(size=shape), body]).astype(np.float32)
    case = make_case(source, 2 * source[:1] + 1, body)
    configuration = make_configuration(
        (8, 12, 8), schemes=("ct", "none"), backgrounds=(-1.0, 0.0), batch_size=4
    )
    batches = Batches([case], configuration, seed=0, augment=True)
    interpolated = 0
    for step in range(15):
        batch = batches.batch(0, step)
        torch.testing.assert_close(batch.target, 2 * batch.source[:, :1] + 1, atol=1e-5, rtol=0)
        known = (batch.source[:, 1:] - 0.5).abs() > 1e-4  # not exactly on the threshold
        expected = (batch.source[:, 1:] >= 0.5).float()
        assert torch.equal(batch.mask[known], expected[known])
        interpolated += int(((batch.source[:, 1:] % 1) != 0).any())
    assert interpolated > 5


def test_a_rotation_keeps_lengths_in_mm(make_case, make_configuration, monkeypatch):
    """Sources that are their own voxel indices: a patch's shows where each voxel was taken."""
    monkeypatch.setattr(augment, "P_ROTATION", 1.0)
    monkeypatch.setattr(augment, "P_SCALE", 0.0)
    indices = np.indices((30, 40, 50)).astype(np.float32)
    body = np.zeros(indices.shape[1:], np.uint8)
    body[13:17, 18:22, 23:27] = 1  # patches lie inside the volume
    configuration = make_configuration((6, 8, 10), schemes=("none",) * 3, backgrounds=(0.0,) * 3)
    assert augment.rotation_axes((6, 8, 10), configuration.spacing) == (True, True, True)
    case = make_case(indices, indices[:1], body)
    source = Batches([case], configuration, seed=0, augment=True).batch(0, 0).source
    for axis, length in enumerate(configuration.spacing):
        steps = source.diff(dim=axis + 2) * torch.tensor(configuration.spacing).view(3, 1, 1, 1)
        assert torch.allclose(steps.norm(dim=1), torch.tensor(length), atol=1e-3)


def test_a_small_volume_is_padded_with_each_channels_background(make_case, make_configuration):
    shape = (3, 8, 8)
    source = np.stack([np.full(shape, 5.0), np.full(shape, 6.0)]).astype(np.float32)
    case = make_case(source, np.full((1, *shape), 7.0, np.float32))
    configuration = make_configuration(schemes=("ct", "none"), backgrounds=(-4.0, 2.0))
    batch = Batches([case], configuration, seed=0, augment=False).batch(0, 0)
    profile = [2, 3, 4]  # the volume lies in the middle: two before, three after
    outside = [z for z in range(8) if z not in profile]
    for tensor, channel, inside_value, background in (
        (batch.source, 0, 5.0, -4.0),
        (batch.source, 1, 6.0, 2.0),
        (batch.target, 0, 7.0, -1.0),
        (batch.mask, 0, 1.0, 0.0),
    ):
        assert (tensor[:, channel, profile] == inside_value).all()
        assert (tensor[:, channel, outside] == background).all()


def test_a_transform_that_moves_nothing_gives_the_plain_patch(
    cases, make_configuration, monkeypatch
):
    still = create_zero_centered_coordinate_mesh((8, 8, 8))
    monkeypatch.setattr(augment, "draw_coordinates", lambda *_: still.copy())
    monkeypatch.setattr(augment, "mirror", lambda patch, rng: patch)
    moved = Batches(cases, make_configuration(), seed=3, augment=True)
    plain = Batches(cases, make_configuration(), seed=3, augment=False)
    for step in range(3):
        assert _equal(moved.batch(0, step), plain.batch(0, step))


def test_only_sources_without_a_unit_change_their_intensities(make_case, make_configuration):
    """Space and intensity have their own random numbers: schemes change nothing in space."""
    rng = np.random.default_rng(0)
    source = rng.normal(size=(4, 12, 12, 12)).astype(np.float32)
    case = make_case(source, source[:1].copy())

    def augmented(*schemes, residual=None):
        configuration = make_configuration(
            schemes=schemes, backgrounds=(0.0,) * 4, residual_channel=residual
        )
        return Batches([case], configuration, seed=0, augment=True)

    mixed = augmented("ct", "zscore", "none", "percentiles")
    plain = augmented("ct", "ct", "ct", "ct")
    residual = augmented("ct", "zscore", "none", "percentiles", residual=1)
    changed = np.zeros(4, dtype=bool)
    for step in range(12):
        first, second, third = (b.batch(0, step) for b in (mixed, plain, residual))
        assert torch.equal(first.target, second.target)
        assert torch.equal(first.mask, second.mask)
        assert torch.equal(third.source[:, 1], second.source[:, 1])
        changed |= (first.source != second.source).flatten(2).any(2).any(0).numpy()
    assert changed.tolist() == [False, True, False, True]


def test_all_cases_come_before_any_comes_again(make_case, make_configuration):
    cases = [
        make_case(*(np.full((1, 8, 8, 8), i, np.float32) for _ in range(2)), name=str(i))
        for i in range(5)
    ]
    batches = Batches(cases, make_configuration(), seed=0, augment=False)
    order = [int(v) for s in range(10) for v in batches.batch(0, s).target[:, 0, 0, 0, 0]]
    rounds = [order[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(one) == list(range(5)) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_single_slices_are_augmented_in_their_plane(make_case, make_configuration):
    rng = np.random.default_rng(0)
    source = rng.normal(size=(1, 1, 20, 20)).astype(np.float32)
    configuration = make_configuration((1, 16, 16), schemes=("zscore",), spacing=(5.0, 1.0, 1.0))
    batches = Batches([make_case(source, 2 * source + 1)], configuration, seed=0, augment=True)
    for step in range(12):
        batch = batches.batch(0, step)
        assert batch.source.shape == (2, 1, 1, 16, 16)
        assert torch.isfinite(batch.source).all()


def test_stored_cases_give_the_same_batches_as_arrays(cases, make_configuration, tmp_path):
    stored = []
    for case in cases:
        arrays = Case(case.record, case.source, case.target, case.body)
        save_case(tmp_path, arrays, (8, 8, 8))
        opened = open_case(tmp_path, case.record.identifier)
        stored.append(dataclasses.replace(opened, centres=case.centres))
    configuration = make_configuration(schemes=("zscore",))
    first = Batches(cases, configuration, seed=1, augment=True)
    second = Batches(stored, configuration, seed=1, augment=True)
    assert all(_equal(first.batch(0, step), second.batch(0, step)) for step in range(4))


def test_no_cases_and_no_target_are_refused(make_noise_case, make_configuration):
    with pytest.raises(TrainingError, match="no cases"):
        Batches([], make_configuration(), seed=0, augment=False)
    case = make_noise_case(name="p7")
    blind = dataclasses.replace(case, record=dataclasses.replace(case.record, target=None))
    with pytest.raises(DatasetError, match="p7 has no target"):
        Batches([blind], make_configuration(), seed=0, augment=False)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_prefetched_batches_are_the_same_and_in_order(augmented, n_workers):
    places = [(1, 3), (1, 4), (2, 0), (2, 1)]
    for place, batch in zip(places, prefetched(augmented, places, n_workers), strict=True):
        assert isinstance(batch, Batch)
        assert _equal(batch, augmented.batch(*place))


def test_batches_come_by_a_pipe_where_shared_memory_is_full(augmented, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    for step, batch in enumerate(prefetched(augmented, FIRST[:3], 1)):
        assert _equal(batch, augmented.batch(0, step))


def test_workers_do_not_change_the_global_random_state(augmented):
    before = torch.get_rng_state()
    list(prefetched(augmented, FIRST[:2], 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_stopping_early_leaves_no_worker_behind(augmented):
    source = prefetched(augmented, FIRST[:50], 2)
    next(source)
    assert multiprocessing.active_children()
    source.close()
    assert not multiprocessing.active_children()


class _Failing(Batches):
    def batch(self, epoch, step, rank=0):
        raise RuntimeError("our own fault")


def test_workers_end_with_a_killed_parent(tmp_path):
    """Even when nobody takes the large batch that they want to hand over."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, torch\n"
        "from gdmnet.objectives.base import Batch\n"
        "from gdmnet.training.batches import prefetched\n"
        "class Large:\n"
        "    def batch(self, epoch, step, rank=0):\n"
        "        return Batch(*(torch.zeros(2, 1, 32, 32, 32) for _ in range(3)))\n"
        "source = prefetched(Large(), [(0, 0)] * 99, 2)\n"
        "next(source)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # the workers hold its standard output: the call returns when the last one is gone
    finished = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, timeout=600)
    assert finished.returncode == -signal.SIGKILL


def test_a_dead_worker_is_an_error_with_advice(tmp_path):
    """In a process of its own: torch raises the news of a death wherever its parent is."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os\n"
        "from gdmnet.errors import TrainingError\n"
        "from gdmnet.training.batches import prefetched\n"
        "class Dying:\n"
        "    def batch(self, epoch, step, rank=0):\n"
        "        os._exit(1)\n"
        "try:\n"
        "    list(prefetched(Dying(), [(0, 0)] * 4, 1))\n"
        "except TrainingError as error:\n"
        "    print(error)\n"
    )
    finished = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=600, check=True
    )
    assert re.search(r"died.*fewer", finished.stdout)


def test_an_error_in_a_worker_keeps_its_type_and_text(cases, make_configuration):
    failing = _Failing(cases, make_configuration(), seed=0, augment=False)
    with pytest.raises(RuntimeError, match="our own fault"):
        list(prefetched(failing, FIRST[:4], 1))


class _Damaged(Batches):
    def batch(self, epoch, step, rank=0):
        raise DatasetError("p7: damaged")


def test_what_a_user_can_mend_is_one_line_from_a_worker_too(cases, make_configuration):
    damaged = _Damaged(cases, make_configuration(), seed=0, augment=False)
    for n_workers in (0, 1):
        with pytest.raises(DatasetError) as caught:
            list(prefetched(damaged, FIRST[:4], n_workers))
        assert str(caught.value) == "p7: damaged"


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.data())
def test_a_patch_lies_inside_a_larger_volume_and_contains_its_centre(patch, shape, data):
    centre = [data.draw(st.integers(0, n - 1)) for n in shape]
    start = patch_start(centre, patch, shape)
    for first, size, length, middle in zip(start, patch, shape, centre, strict=True):
        assert first <= middle < first + size
        if length >= size:
            assert 0 <= first <= length - size
        else:  # the volume lies in the middle of the patch
            before, after = -first, first + size - length
            assert before >= 0
            assert after - before in (0, 1)


def test_a_centre_far_from_the_border_is_the_patch_centre():
    assert patch_start((10, 20, 30), (4, 6, 8), (40, 40, 60)) == (8, 17, 26)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.tuples(*[st.integers(-12, 12)] * 3))
def test_reading_equals_slicing_a_generously_padded_volume(shape, size, start):
    rng = np.random.default_rng(0)
    array = rng.normal(size=(2, *shape)).astype(np.float32)
    fill = [-3.0, 7.0]
    margin = 25
    padded = np.stack(
        [np.pad(channel, margin, constant_values=f) for channel, f in zip(array, fill, strict=True)]
    )
    box = tuple(slice(margin + s, margin + s + n) for s, n in zip(start, size, strict=True))
    expected = padded[(slice(None), *box)]
    np.testing.assert_array_equal(read_patch(array, start, size, fill), expected)
    np.testing.assert_array_equal(read_patch(array[1], start, size, 7.0), expected[1])


def test_a_patch_is_a_copy():
    array = np.zeros((1, 4, 4, 4), np.float32)
    read_patch(array, (0, 0, 0), (4, 4, 4), [0.0])[...] = 1
    assert not array.any()
