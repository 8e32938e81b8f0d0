import math
import re

import numpy as np
import pytest

from gdmnet.metrics.summary import summarise
from gdmnet.report.page import overview
from gdmnet.report.view import CasePage

VALUES = {
    "a": {"mae": 10.0, "psnr": 30.0, "sharpness": 0.5, "bias": -2.0, "new": 1.0},
    "b": {"mae": 30.0, "psnr": None, "sharpness": 1.1, "bias": 1.0, "new": 2.0},
    "c": {"mae": 20.0, "psnr": 20.0, "sharpness": 1.0, "bias": 0.5, "new": None},
}


def pages(*names):
    return [CasePage(name, "{}", (), (), ("prediction",), "HU") for name in names]


def table(values=VALUES, **warnings):
    summary = summarise(
        {name: {**case, "data_range": 4095.0} for name, case in values.items()},
        units="HU",
        mask="the body",
    )
    return overview(
        pages(*values), {"prediction": summary}, {name: warnings.get(name, 0) for name in values}
    )


def cells(html, case):
    row = re.search(rf'class="open">{case}<.+?</tr>', html, re.S)[0]
    return re.findall(r'data-bad="([^"]*)"', row)


def test_the_worst_case_comes_first():
    assert re.findall('class="open">(.)<', table()) == ["b", "c", "a"]
    assert 'data-worst="descending" data-order="worst"' in table()


def test_cells_tell_how_bad_they_are():
    html = table(a=2)
    assert cells(html, "a")[:3] == ["2", "10.0", "-30.0"]
    assert float(cells(html, "a")[3]) == pytest.approx(math.log(2))
    assert cells(html, "b")[2] == ""  # not defined
    assert float(cells(html, "a")[4]) == 2  # |bias|


def test_numbers_of_numpy_are_told_as_numbers():
    values = {name: {"mae": np.float64(case["mae"])} for name, case in VALUES.items()}
    assert cells(table(values), "b")[1] == "30.0"  # a script reads it


def test_statistics_of_whole_values_keep_their_fractions():
    values = {"a": {"mae": 1.0}, "b": {"mae": 1.0}, "c": {"mae": 3.0}}
    assert '<th scope="row" colspan="2">mean<td>1.667<' in table(values)


def test_unknown_metrics_are_there_but_folded_away():
    html = table()
    assert re.search('class="more"[^>]*>1', html)
    assert 'id="more"' in html
    assert '<th scope="row" colspan="2">median<td>20' in html


def test_metrics_that_no_case_has_are_left_out():
    values = {name: {**case, "psnr": None} for name, case in VALUES.items()}
    assert "PSNR" not in re.search("<thead>.+</thead>", table(values))[0]


def test_without_targets_names_and_warnings_stand_there():
    html = overview(pages("x<y", "b"), {}, {"x<y": 0, "b": 2})
    assert "x&lt;y" in html
    assert cells(html, "b") == ["2"]
    assert "tfoot></tfoot" in html
