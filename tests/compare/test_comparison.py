"""A small comparison whose figures are known: the record, its tables and its charts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gdmnet import codec
from gdmnet.compare.comparison import _notes, _put_together
from gdmnet.compare.methods import CaseCosts, CaseGroup, ComparedMethod, ComparisonCases
from gdmnet.compare.page import scatter_figures
from gdmnet.compare.record import Comparison, MethodFacts
from gdmnet.compare.tables import as_html, as_text, methods_table, paired_table
from gdmnet.compare.verdict import JudgeVerdict
from gdmnet.data.case import CaseFiles
from gdmnet.metrics.frechet import Distance, Distances
from gdmnet.metrics.summary import summarise

CASES = tuple("abcdef")
# method -> MAE, sharpness, histogram W1, calls a case
METHODS = {
    "gdm": (40.0, 0.95, 5.0, 8),
    "regression": (38.0, 0.7, 9.0, 8),
    "flow, 4 steps": (50.0, 0.99, 4.0, 32),
    "flow, 16 steps": (60.0, 0.6, 12.0, 128),
}


def make_summary(mae, sharpness, w1):
    cases = {}
    for i, case in enumerate(CASES):
        share = 1 + i / 10
        cases[case] = {
            "mae": mae * share,
            "psnr": 40 - mae / 4 + i / 10,
            "ssim": 0.9,
            "ms_ssim": 0.95,
            "sharpness": sharpness,
            "histogram_w1": w1 * share,
            "gradient_w1": w1,
            "spectrum_distance": w1 / 2,
            "edge_width": 1 / sharpness,
            "data_range": 4095.0,
        }
    return summarise(cases, units="HU", mask="given")


def make_method(name, calls, *, is_measured=True):
    facts = MethodFacts(
        objective=name.split(",")[0],
        configuration="3d_fullres",
        options={},
        model=f"models/{name}",
        folds=("0",),
        in_hu=True,
        command=f"gdm_predict -m {name}",
        encoder="self" if name == "gdm" else None,
        training_steps=4000,
        training_seconds=1234.5,
        device="cpu",
        precision="fp32",
    )
    costs = {c: CaseCosts(calls / 10, calls, 700.0 + i, 555_000) for i, c in enumerate(CASES)}
    return ComparedMethod(name, facts, {}, costs if is_measured else {})


def make_comparison(*, is_measured=True) -> Comparison:
    files = tuple(CaseFiles(case, (), Path(case)) for case in CASES)
    group = CaseGroup("", ("0",), files)
    cases = ComparisonCases("Dataset501_Test", "test cases", (group,), {}, ("MR",))
    methods = [make_method(name, f[-1], is_measured=is_measured) for name, f in METHODS.items()]
    distances = {
        name: Distances(Distance(figures[2]), Distance(figures[2]))
        for name, figures in METHODS.items()
    }
    verdicts = {
        name: JudgeVerdict("judge", 6, 384, 8, False, d, None, "nobody", d)
        for name, d in distances.items()
    }
    summaries = {name: make_summary(*figures[:3]) for name, figures in METHODS.items()}
    found = _put_together(methods, cases, summaries, verdicts)
    return replace(found, notes=tuple(_notes(found)), made={"command": "gdm_compare <501>"})


@pytest.fixture(scope="module")
def compared():
    return make_comparison()


def test_a_comparison_is_written_and_read_back(compared, tmp_path):
    codec.save(compared, tmp_path / "compare.json")
    assert codec.load(Comparison, tmp_path / "compare.json") == compared


def test_what_is_beaten_everywhere_is_not_on_the_front(compared):
    assert compared.front == ("gdm", "regression", "flow, 4 steps")
    assert compared.figures["flow, 16 steps"].calls == 128
    assert compared.figures["gdm"].peak_mb == 705


def test_rivals_are_tested_against_gdm_case_by_case(compared):
    assert compared.reference == "gdm"
    assert set(compared.against) == set(METHODS) - {"gdm"}
    found = compared.against["regression"]
    mean_share = np.mean([1 + i / 10 for i in range(len(CASES))])
    assert found["mae"].difference == pytest.approx(-2 * mean_share)
    assert found["fidelity"] == found["mae"]
    assert found["mae"].p == 2 / 2**6


def test_the_best_by_each_criterion_comes_with_its_rivals(compared):
    assert compared.best["fidelity"].name == "regression"
    assert compared.best["plausibility"].name == "flow, 4 steps"
    assert set(compared.best["fidelity"].against) == set(METHODS) - {"regression"}
    gdm = compared.best["fidelity"].against["gdm"]
    assert gdm.difference == -compared.against["regression"]["mae"].difference * -1


def test_the_table_marks_winners_and_the_front(compared):
    table = methods_table(compared)
    assert table.rows[0][0] == "gdm"
    assert table.front == {0, 1, 2}
    winners = {(table.rows[i][0], table.titles[j]) for i, j in table.winners}
    assert winners == {
        ("regression", "MAE [HU]"),
        ("regression", "PSNR [dB]"),
        ("flow, 4 steps", "sharpness"),
        ("flow, 4 steps", "hist. W1 [HU]"),
        ("flow, 4 steps", "spectrum [dB]"),
        ("flow, 4 steps", "implausibility"),
    }  # in SSIM nobody is better
    row = dict(zip(table.titles, table.rows[3], strict=True))
    assert row["network calls"] == "128"
    assert row["s a volume"] == "12.8"
    assert row["memory [GiB]"] == "0.69"
    assert row["weights [M]"] == "0.555"
    assert row["training steps"] == "4 000"
    assert row["training s"] == "1 234"


def test_costs_that_nobody_measured_have_no_column():
    table = methods_table(make_comparison(is_measured=False))
    assert "Frechet" in table.titles
    assert not {"s a volume", "network calls", "memory [GiB]"} & set(table.titles)


def test_tests_say_which_is_better_whatever_the_direction(compared):
    table = paired_table(compared)
    row = dict(zip(table.titles, table.rows[0], strict=True))
    assert row["method - gdm"] == "regression"
    assert row["MAE [HU]"].endswith("(p = 0.031): better")
    assert row["PSNR [dB]"].endswith("(p = 0.031): better")
    assert row["sharpness"].endswith("(p = 0.031): worse")
    assert row["hist. W1 [HU]"].endswith("(p = 0.031): worse")
    assert row["SSIM"].endswith("(no case differs)")


def test_text_and_page_show_the_same_numbers(compared):
    text, page = as_text(compared), as_html(methods_table(compared))
    for cell in ("47.5", "0.95", "12.8", "1 234"):
        assert cell in text
        assert f"<td>{cell}" in page or f"<td class=best>{cell}" in page
    assert page.count("&#9679;") == 3
    assert "best by fidelity: regression" in text
    assert "gdm_predict -m regression" in text


def test_notes_tell_what_few_cases_cannot_show(compared):
    assert not any("cannot be below" in note for note in compared.notes)
    few = _notes(replace(compared, cases=CASES[:2]))
    assert "with 2 cases p cannot be below 0.5: no difference can be significant" in few
    unitless = _notes(replace(compared, units="%"))
    assert any("--match-intensity" in note for note in unitless)
    matched = _notes(replace(compared, units="%", match_intensity="linear"))
    assert any("a fit dulls what agrees less" in note for note in matched)


def test_three_charts_name_a_sampler_once_and_then_its_steps(compared):
    charts = scatter_figures(compared)
    assert len(charts) == 3
    for chart in charts:
        names = re.findall(r"<text[^>]*>([^<]*)</text>", chart)
        assert names.count("flow, 4 steps") == 1
        assert "flow, 16 steps" not in names
        assert "16" in names
    assert len(scatter_figures(make_comparison(is_measured=False))) == 1
