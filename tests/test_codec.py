import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdmnet import codec
from gdmnet.errors import DatasetError, OutputError, PlanError
from gdmnet.plan import (
    FORMATS,
    N_QUANTILES,
    SCHEMES,
    Architecture,
    CaseFingerprint,
    Configuration,
    Fingerprint,
    Intensity,
    Normalisation,
    Plan,
    Recipe,
    Run,
)


@dataclass(frozen=True)
class Leaf:
    size: float
    name: str = "leaf"


@dataclass(frozen=True)
class Tree:
    SCHEMA = 1
    schema: int
    leaves: tuple[Leaf, ...]
    corner: tuple[int, int] = (0, 0)
    label: str | None = None
    is_green: bool = True
    heights: dict[str, float] = field(default_factory=dict)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON_VALUES = st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=5)
st.register_type_strategy(float, FLOATS)


COUNTS = st.integers(1, 32)
SPACINGS = st.tuples(*[st.floats(0.02, 60)] * 3)
SHAPES = st.tuples(*[st.integers(1, 600)] * 3)


@st.composite
def plans(draw):
    normalisation = st.builds(
        Normalisation,
        scheme=st.sampled_from(SCHEMES),
        scale=st.floats(1e-9, 1e9),
        low=st.none() | st.floats(-1e9, 0),
        high=st.none() | st.floats(0, 1e9),
    )
    n_stages, n_channels = draw(st.integers(1, 3)), draw(st.integers(1, 2))

    def stages(values):
        return st.tuples(*[values] * n_stages)

    architecture = st.builds(
        Architecture,
        features=stages(COUNTS),
        kernels=stages(st.tuples(*[st.sampled_from((1, 3, 5))] * 3)),
        strides=st.just(((1, 1, 1), (1, 2, 2), (2, 2, 2))[:n_stages]),
        blocks=stages(COUNTS),
    )
    configuration = st.builds(
        Configuration,
        spacing=SPACINGS,
        median_shape=SHAPES,
        patch_size=st.tuples(*[COUNTS.map(lambda n: 4 * n)] * 3),
        batch_size=COUNTS,
        architecture=architecture,
        sources=st.tuples(*[normalisation] * n_channels),
        target=normalisation,
        residual_channel=st.none() | st.integers(0, n_channels - 1),
        feature_map_voxels=COUNTS,
    )
    configurations = st.dictionaries(st.text(), configuration, min_size=1, max_size=2)
    names = st.tuples(*[st.text()] * n_channels)
    memory = st.floats(1, 100)
    return draw(
        st.builds(
            Plan,
            configurations=configurations,
            channel_names=names,
            memory_gb=memory,
            file_ending=st.sampled_from(FORMATS),
        )
    )


@settings(deadline=None, max_examples=25)
@given(plans())
def test_a_plan_comes_back_from_json_as_it_was(plan):
    assert codec.decode(Plan, json.loads(json.dumps(codec.encode(plan)))) == plan


@st.composite
def fingerprints(draw):
    n_channels = draw(st.integers(1, 2))
    intensity = st.builds(Intensity, quantiles=st.tuples(*[st.from_type(float)] * N_QUANTILES))
    sources = st.tuples(*[intensity] * n_channels)
    share = st.floats(0, 1)
    case = st.builds(
        CaseFingerprint,
        shape=SHAPES,
        spacing=SPACINGS,
        body_fraction=share,
        sources=sources,
        target=intensity,
    )
    names, cases = st.tuples(*[st.text()] * n_channels), st.lists(case, max_size=2).map(tuple)
    values = st.builds(
        Fingerprint, channel_names=names, sources=sources, target=intensity, cases=cases
    )
    return draw(values)


@settings(deadline=None, max_examples=25)
@given(fingerprints())
def test_a_fingerprint_comes_back_from_json_as_it_was(fingerprint):
    text = json.dumps(codec.encode(fingerprint))
    assert codec.decode(Fingerprint, json.loads(text)) == fingerprint


def runs():
    """Runs whose settings are in bounds; out of them none can be made."""
    counts, shares = st.integers(1, 10**6), st.floats(0, 1)
    recipe = st.builds(
        Recipe,
        epochs=counts,
        iterations=counts,
        validation_patches=counts,
        learning_rate=st.floats(1e-9, 1),
        weight_decay=shares,
        warm_up_share=shares,
        clip=st.floats(1e-3, 1e3),
        ema_decay=shares,
        precision=st.sampled_from(["fp32", "bf16", "fp16"]),
    )
    return st.builds(
        Run,
        recipe=recipe,
        options=st.dictionaries(st.text(), JSON_VALUES, max_size=3),
        n_threads=counts,
        n_workers=counts,
        n_devices=counts,
        realism=st.none() | shares,
    )


@settings(deadline=None, max_examples=25)
@given(runs())
def test_a_run_comes_back_from_json_as_it_was(run):
    assert codec.decode(Run, json.loads(json.dumps(codec.encode(run)))) == run


def test_what_is_saved_is_loaded(tmp_path):
    tree = Tree(1, (Leaf(1.5), Leaf(2, "oak")), (3, 4), None, False, {"a": 1.0})
    codec.save(tree, tmp_path / "deep" / "tree.json")
    assert codec.load(Tree, tmp_path / "deep" / "tree.json") == tree
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["tree.json"]


GOOD = {"schema": 1, "leaves": [{"size": 1.0}]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"leafs": []}, "$.leafs: unknown key; known are corner, heights, is_green"),
        ({"leaves": [{"size": 1}, {}]}, "$.leaves[1].size: this key is missing"),
        ({"leaves": [{"size": "big"}]}, '$.leaves[0].size: expected float, found "big"'),
        ({"leaves": [{"size": True}]}, "$.leaves[0].size: expected float, found true"),
        ({"leaves": {}}, "$.leaves: expected a list, found dict"),
        ({"leaves": [3]}, "$.leaves[0]: expected an object, found 3"),
        ({"corner": [1, 2, 3]}, "$.corner: expected a list of 2, found list"),
        ({"corner": [1, 2.5]}, "$.corner[1]: expected int, found 2.5"),
        ({"corner": [1, True]}, "$.corner[1]: expected int, found true"),
        ({"label": 3}, "$.label: expected str, found 3"),
        ({"is_green": 1}, "$.is_green: expected bool, found 1"),
        ({"heights": []}, "$.heights: expected an object, found list"),
        ({"heights": {"a": None}}, "$.heights.a: expected float, found null"),
    ],
)
def test_a_wrong_key_is_named_by_its_path(change, complaint):
    with pytest.raises(PlanError) as caught:
        codec.decode(Tree, {**GOOD, **change})
    assert str(caught.value).startswith(complaint)


def test_whole_numbers_are_taken_for_floats_and_defaults_fill_gaps():
    tree = codec.decode(Tree, {"schema": 1, "leaves": [{"size": 2}], "label": None})
    assert tree == Tree(1, (Leaf(2.0),))
    assert type(tree.leaves[0].size) is float


def test_a_complaint_of_a_file_carries_the_file(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text('{"schema": 1}')
    with pytest.raises(PlanError, match=r"tree\.json\.leaves: this key is missing"):
        codec.load(Tree, path)


def test_another_schema_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text('{"schema": 2}')
    with pytest.raises(
        PlanError, match=r"schema 2 .*\(this one reads schema 1\); make the file anew"
    ):
        codec.load(Tree, path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "file not found"),
        (b'{"a": 1,\n oops}', "not valid JSON, line 2 column 2"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b'{"a": NaN}', "not valid JSON: NaN is no number"),
        (b'{"a": [-Infinity]}', "not valid JSON: -Infinity is no number"),
        (b'{"a": 1e999}', "1e999 is too large a number"),
        (b'{"a": ' + b"9" * 6000 + b"}", "is too large a number"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nested too deeply"),
        (b'{"a": "\\ud800"}', "cannot be read"),
    ],
)
def test_a_broken_file_raises_the_error_that_was_asked_for(tmp_path, content, complaint):
    path = tmp_path / "dataset.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=complaint) as caught:
        codec.read_json(path, DatasetError)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_read_over_and_a_pipe_is_no_file(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert codec.read_json(tmp_path / "a.json") == {"a": 1}
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(PlanError, match="is no plain file"):
        codec.read_json(tmp_path / "pipe.json")
    with pytest.raises(PlanError, match="cannot be read"):
        codec.read_json(tmp_path / ("n" * 5000))


def test_a_file_that_cannot_be_written_leaves_nothing_and_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        codec.save(GOOD, tmp_path / "file" / "tree.json")
    (tmp_path / "tree.json").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        codec.save(GOOD, tmp_path / "tree.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "tree.json"]


def test_many_may_write_a_file_at_once_and_it_is_whole_at_any_time(tmp_path):
    path = tmp_path / "tree.json"
    codec.save(GOOD, path)

    def write_and_read(_: int) -> bool:
        codec.save(GOOD, path)
        return codec.read_json(path) == GOOD

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_read, range(200)))
    assert [p.name for p in tmp_path.iterdir()] == ["tree.json"]


def test_numbers_that_json_does_not_know_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        codec.save({"a": float("nan")}, tmp_path / "a.json")
