from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from report.studies import CASES, METHODS, make_study

from gdmnet import codec
from gdmnet.compare.study import Study, limits
from gdmnet.compare.study_figures import scatter_figures
from gdmnet.compare.study_page import study_markdown, study_page
from gdmnet.compare.study_pictures import Shown, case_pictures, telling_cases
from gdmnet.compare.study_table import as_html, as_markdown, make_table, make_tests
from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.volume import write_volume
from gdmnet.geometry import Geometry


@pytest.fixture(scope="module")
def study():
    return make_study()


@pytest.fixture(scope="module")
def scope(study):
    return study.scopes["volume"]


def test_a_study_is_written_and_read_back(study, tmp_path):
    codec.save(study, tmp_path / "compare.json")
    assert codec.load(Study, tmp_path / "compare.json") == study


def test_what_is_beaten_everywhere_is_not_on_the_front(scope):
    assert scope.front == ("gdm", "regression", "flow, 4 steps")
    assert scope.methods["flow, 16 steps"].calls == 128
    assert scope.methods["gdm"].peak_mb == 705


def test_rivals_are_tested_against_gdm_case_by_case(scope):
    assert set(scope.against) == set(METHODS) - {"gdm"}
    found = {c.metric: c.paired for c in scope.against["regression"]}
    mean_share = np.mean([1 + i / 10 for i in range(len(CASES))])
    assert found["mae"].difference == pytest.approx(-2 * mean_share)
    assert found["fidelity"] == found["mae"]
    assert found["mae"].p == 2 / 2**6


def test_the_table_marks_the_best_and_the_front(study, scope):
    table = make_table(study, scope)
    assert table.rows[0][0] == "gdm"
    assert table.front == (True, True, True, False)
    best = {(table.rows[i][0], table.titles[j]) for i, j in table.best}
    assert ("regression", "MAE [HU]") in best
    assert ("flow, 4 steps", "sharpness") in best
    assert ("flow, 4 steps", "Frechet") in best
    assert not any(title == "network calls" for _, title in best)
    row = dict(zip(table.titles, table.rows[3], strict=True))
    assert row["network calls"] == "128"
    assert row["s a volume"] == "12.8"
    assert row["memory [GiB]"] == "0.69"
    assert row["weights [M]"] == "0.555"
    assert row["training steps"] == "4 000"
    assert row["training s"] == "1 234"


def test_tests_say_who_is_better_whatever_the_direction(study, scope):
    table = make_tests(study, scope)
    row = dict(zip(table.titles, table.rows[0], strict=True))
    assert row["method - gdm"] == "regression"
    assert row["MAE [HU]"].endswith("p 0.031: better")
    assert row["PSNR [dB]"].endswith("p 0.031: better")
    assert row["sharpness"].endswith("p 0.031: worse")
    assert row["hist. W1"].endswith("p 0.031: worse")
    assert row["SSIM"] == "+0, no case differs"


def test_markdown_is_one_table_without_breaks_in_cells(study, scope):
    for table in (make_table(study, scope), make_tests(study, scope)):
        lines = as_markdown(table).splitlines()
        assert len(lines) == len(table.rows) + 2
        assert len({line.count("|") for line in lines}) == 1
        assert len({len(line) for line in lines}) == 1
    assert "<br>" in as_html(make_tests(study, scope))


def test_notes_tell_what_few_cases_cannot_show(study):
    assert not any("cannot be below" in note for note in study.notes)
    few = replace(study, cases=CASES[:2])
    assert "with 2 cases p cannot be below 0.5: no difference can be significant" in limits(few)
    unitless = limits(replace(study, units="%"))
    assert any("--match-intensity" in note for note in unitless)
    matched = limits(replace(study, units="%", match_intensity="linear"))
    assert any("a fit dulls what agrees less" in note for note in matched)


def test_the_page_needs_nothing_else(study):
    page = study_page(study, ["<h3>picture</h3>"])
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert page.count("<svg") == 3
    assert "gdm_compare &lt;501&gt;" in page
    for method in METHODS:
        assert page.count(method) > 3
    assert "Pareto" in page


def test_a_chart_names_a_sampler_once_and_then_its_steps(study, scope):
    for chart in scatter_figures(study, scope):
        names = re.findall(r"<text[^>]*>([^<]*)</text>", chart)
        assert names.count("flow, 4 steps") == 1
        assert "flow, 16 steps" not in names
        assert "16" in names


def test_markdown_and_page_show_the_same_numbers(study):
    page, text = study_page(study, []), study_markdown(study)
    for cell in ("47.5", "0.95", "12.8", "1 234"):
        assert cell in text
        assert cell in page
    assert "equal steps: 80 epochs of 50 steps" in text


def test_the_telling_cases_are_worst_median_and_best():
    assert telling_cases({"a": 3.0, "b": 1.0, "c": 2.0, "d": None}) == {
        "worst": "a",
        "median": "c",
        "best": "b",
    }
    assert telling_cases({"a": 1.0, "b": 2.0}) == {"worst": "b", "best": "a"}
    assert telling_cases({"a": 1.0}) == {"only": "a"}
    assert telling_cases({}) == {}


def test_a_case_is_shown_by_every_method_in_one_window(study, scope, tmp_path, rng):
    shape = (6, 20, 24)
    paths = {}
    for name in ("source", "target", "mask", *METHODS):
        image = rng.normal(0, 100, shape).astype(np.float32)
        paths[name] = tmp_path / f"{name}.nii.gz"
        array = np.ones(shape, np.float32) if name == "mask" else image
        write_volume(paths[name], Volume(array[None], Geometry(shape, (3.0, 1.0, 1.0))))
    files = CaseFiles("a", (paths["source"],), paths["target"], paths["mask"])
    shown = Shown(files, {name: paths[name] for name in METHODS})
    html = case_pictures(study, scope, "worst", shown)
    assert html.count("<figure>") == len(METHODS) + 2
    assert html.count("<img") == 2 * len(METHODS) + 2  # each method's error, too
    assert html.count('class="scale"') == 2  # one window for all, one for all errors
    assert "Worst case: a (gdm: MAE 40 HU)" in html
    assert "regression: MAE 38 HU" in html
