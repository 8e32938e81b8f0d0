"""Prepared cases on disk: what is written is read back, and never half of it."""

from __future__ import annotations

import contextlib
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet import codec
from gdmnet.data.case import Case, CaseRecord
from gdmnet.data.store import open_case, save_case
from gdmnet.errors import DatasetError, OutputError
from gdmnet.geometry import Geometry
from gdmnet.plan import Normalisation

PATCH = (16, 24, 24)
UNITS = Normalisation("percentiles", 12.0, 345.5, None, None, 0.0)


def make_case(identifier="patient 1", shape=(9, 30, 41), n_channels=2, seed=0):
    rng = np.random.default_rng(seed)
    geometry = Geometry(shape, (3.0, 0.7, 0.7), itk_origin=(1.5, -2.25, 7.0))
    z, y, x = shape
    record = CaseRecord(
        identifier, geometry, ((0, z), (0, y), (0, x)), geometry.spacing, shape, "otsu", UNITS
    )
    return Case(
        record,
        rng.normal(size=(n_channels, *shape)).astype(np.float32),
        rng.normal(size=(1, *shape)).astype(np.float32),
        (rng.random(shape) < 0.3).astype(np.uint8),
    )


@settings(deadline=None, max_examples=10)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(1, 40)),
    patch=st.tuples(st.integers(1, 32), st.integers(1, 48), st.integers(1, 48)),
    n_channels=st.integers(1, 3),
)
def test_what_is_written_is_read_back(tmp_path_factory, shape, patch, n_channels):
    folder = tmp_path_factory.mktemp("cases")
    case = make_case(shape=shape, n_channels=n_channels)
    save_case(folder, case, patch)
    stored = open_case(folder, "patient 1")
    assert stored.record == case.record
    for name in ("source", "target", "body"):
        written, read = getattr(case, name), getattr(stored, name)[...]
        np.testing.assert_array_equal(read, written)
        assert read.dtype == written.dtype


def test_an_image_of_few_values_is_stored_by_their_numbers(tmp_path):
    rough = make_case(shape=(40, 64, 64))
    whole = [np.rint(a * 50).astype(np.float32) / 7 for a in (rough.source, rough.target)]
    case = Case(rough.record, *whole, rough.body)
    save_case(tmp_path / "rough", rough, PATCH)
    save_case(tmp_path / "few", case, PATCH)
    stored = open_case(tmp_path / "few", "patient 1")
    patch = (slice(None), slice(2, 7), slice(11, 29), slice(30, 41))
    for name in ("source", "target"):
        assert getattr(stored, name)[patch].dtype == np.float32
        np.testing.assert_array_equal(getattr(stored, name)[...], getattr(case, name))
        np.testing.assert_array_equal(getattr(stored, name)[patch], getattr(case, name)[patch])
        sizes = [(tmp_path / kind / "patient 1" / f"{name}.b2nd").stat().st_size
                 for kind in ("few", "rough")]  # fmt: skip
        assert sizes[0] < 0.5 * sizes[1]


def test_a_patch_is_read_from_the_disk(tmp_path):
    case = make_case()
    save_case(tmp_path, case, PATCH)
    stored = open_case(tmp_path, "patient 1")
    patch = (slice(None), slice(2, 7), slice(11, 29), slice(40, 41))
    np.testing.assert_array_equal(stored.source[patch], case.source[patch])
    assert stored.source.chunks == (1, 9, 30, 32)  # patch rounded up to blocks, within the array


def test_a_view_that_is_not_contiguous_is_written_right(tmp_path):
    case = make_case()
    flipped = Case(case.record, case.source[:, :, ::-1], case.target, case.body)
    save_case(tmp_path, flipped, PATCH)
    np.testing.assert_array_equal(open_case(tmp_path, "patient 1").source[...], flipped.source)


def test_centres_are_voxels_of_the_body_spread_over_it(tmp_path):
    case = make_case(shape=(20, 40, 40))
    save_case(tmp_path, case, PATCH)
    centres = open_case(tmp_path, "patient 1").centres
    assert centres.shape == (4096, 3)
    assert centres.dtype == np.int32
    assert case.body[tuple(centres.T)].all()
    assert len(np.unique(centres, axis=0)) == 4096
    expected = np.argwhere(case.body).mean(axis=0)
    np.testing.assert_allclose(centres.mean(axis=0), expected, atol=1)


def test_centres_depend_on_the_name_only(tmp_path):
    save_case(tmp_path, make_case("a"), PATCH)
    first = open_case(tmp_path, "a").centres
    save_case(tmp_path, make_case("a"), PATCH)
    save_case(tmp_path, make_case("b"), PATCH)
    np.testing.assert_array_equal(open_case(tmp_path, "a").centres, first)
    assert not np.array_equal(open_case(tmp_path, "b").centres[:50], first[:50])


def test_a_small_body_gives_few_centres_and_an_empty_one_all_voxels(tmp_path):
    case = make_case(shape=(2, 3, 4))
    few = np.zeros((2, 3, 4), dtype=np.uint8)
    few[1, 2, 3] = 1
    save_case(tmp_path, Case(case.record, case.source, case.target, few), PATCH)
    assert open_case(tmp_path, "patient 1").centres.tolist() == [[1, 2, 3]]
    save_case(tmp_path, Case(case.record, case.source, case.target, 0 * few), PATCH)
    assert len(open_case(tmp_path, "patient 1").centres) == 24


def test_storing_again_replaces_the_case_and_what_was_left_of_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "source.b2nd").write_bytes(b"half")
    (tmp_path / "a" / "rubbish").touch()
    save_case(tmp_path, make_case("a", seed=1), PATCH)
    second = make_case("a", seed=2)
    save_case(tmp_path, second, PATCH)
    np.testing.assert_array_equal(open_case(tmp_path, "a").source[...], second.source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    assert "rubbish" not in {path.name for path in (tmp_path / "a").iterdir()}


def test_an_interrupted_write_leaves_no_case(tmp_path, monkeypatch):
    def interrupt(value, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(codec, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_case(tmp_path, make_case("a"), PATCH)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    save_case(tmp_path, make_case("a"), PATCH)
    assert open_case(tmp_path, "a").record.identifier == "a"


def test_a_case_without_a_target_is_not_stored(tmp_path):
    case = make_case()
    with pytest.raises(ValueError, match="no target"):
        save_case(tmp_path, Case(case.record, case.source, None, case.body), PATCH)


def test_a_missing_case_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no such preprocessed case"):
        open_case(tmp_path, "a")


@pytest.mark.parametrize("name", ["source.b2nd", "target.b2nd", "body.b2nd", "index.npz"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_damaged_case_is_refused(tmp_path, name, damage):
    save_case(tmp_path, make_case("a"), PATCH)
    path = tmp_path / "a" / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"")
    with pytest.raises(DatasetError, match=r"a: damaged .*delete this folder"):
        open_case(tmp_path, "a")


def test_one_flipped_bit_anywhere_is_never_trained_on(tmp_path):
    case = make_case("a", n_channels=1)
    flat = case.source.copy()
    flat[:, :, :24] = 0  # whole chunks of zeros
    case = Case(case.record, flat, case.target, case.body)
    save_case(tmp_path, case, PATCH)
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "a").iterdir()):
        whole = path.read_bytes()
        ends = (0, 20, 60, 150, len(whole) - 1, len(whole) - 40)
        for place in (*ends, *rng.integers(len(whole), size=15)):
            broken = bytearray(whole)
            broken[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
            with contextlib.suppress(DatasetError):  # some bits are padding, and no matter
                stored = open_case(tmp_path, "a")
                assert stored.record == case.record
                for name in ("source", "target", "body"):
                    np.testing.assert_array_equal(getattr(stored, name)[:], getattr(case, name))
        path.write_bytes(whole)


def test_only_the_chunks_that_are_read_are_checked(tmp_path):
    case = make_case("a", n_channels=1)
    save_case(tmp_path, case, PATCH)
    path = tmp_path / "a" / "source.b2nd"
    broken = bytearray(path.read_bytes())
    broken[300] ^= 4  # in the first chunk
    path.write_bytes(broken)
    stored = open_case(tmp_path, "a")
    np.testing.assert_array_equal(stored.source[..., 32:], case.source[..., 32:])
    with pytest.raises(DatasetError, match=r"a: damaged \(chunk 0 of source.b2nd\)"):
        stored.source[:, 2:3, 1:2, :5]


def test_a_damaged_record_or_arrays_of_another_shape_are_refused(tmp_path):
    save_case(tmp_path, make_case("a"), PATCH)
    save_case(tmp_path, make_case("b", shape=(5, 6, 7)), PATCH)
    (tmp_path / "b" / "body.b2nd").replace(tmp_path / "a" / "body.b2nd")
    with pytest.raises(DatasetError, match=r"body.b2nd is not what was written"):
        open_case(tmp_path, "a")
    (tmp_path / "b" / "case.json").write_text('{"identifier": "b"}')
    with pytest.raises(DatasetError, match=r"damaged .*geometry"):
        open_case(tmp_path, "b")


@pytest.mark.parametrize("noisy", [True, False])  # an array does not fit, the centres do not
def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, small_files, noisy):
    case = make_case("a", shape=(1, 60, 60), n_channels=1)
    if not noisy:
        flat = np.zeros_like(case.source)
        case = Case(case.record, flat, flat, np.ones((1, 60, 60), dtype=np.uint8))
    with (
        small_files(10_000),
        pytest.raises(OutputError, match=r"a: cannot be written \(.*free space"),
    ):
        save_case(tmp_path, case, PATCH)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_files():
    """A limit on the size of files fails a write as a full disk does.

    It ends with the block: pytest's own output may be a file, too.
    """
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def limited(n_bytes):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)

    return limited


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        save_case(tmp_path / "file", make_case("a"), PATCH)
