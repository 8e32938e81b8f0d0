import csv

from gdmnet import codec
from gdmnet.metrics.summary import Summary, as_csv, summarise

CASES = {
    "a": {"mae": 1.5, "psnr": None, "data_range": 4095.0},
    "b, c": {"mae": 2.5, "psnr": 30.0, "data_range": 4095.0, "dice": 0.9},
}


def test_the_csv_has_a_row_a_case_and_a_column_a_metric():
    summary = summarise(CASES, units="HU", mask="given")
    rows = list(csv.reader(as_csv(summary).splitlines()))
    assert rows == [
        ["case", "mae", "psnr", "data_range", "dice"],
        ["a", "1.5", "", "4095.0", ""],
        ["b, c", "2.5", "30.0", "4095.0", "0.9"],
    ]


def test_a_range_that_all_cases_share_is_a_number():
    assert summarise(CASES, units="HU", mask="given").data_range == 4095
    mixed = {**CASES, "d": {"mae": 1.0, "data_range": 300.0}}
    assert str(summarise(mixed, units="", mask="given").data_range).startswith("per case")
    fixed = summarise(mixed, units="HU", mask="given", convention="synthrad2023")
    assert fixed.data_range == 4024


def test_what_is_written_is_read_back(tmp_path):
    summary = summarise(CASES, units="HU", mask="given", failed={"z": "gone"}, note="small")
    codec.save(summary, tmp_path / "summary.json")
    assert codec.load(Summary, tmp_path / "summary.json") == summary
