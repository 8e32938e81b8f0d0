import re

from gdmnet.report.depths import depth_tables, is_of_section

VALUES = {
    "mae": 10.0,
    "bias": 1.0,
    "wepl_p95": 2.0,
    "wepl_bias_0": -0.04,
    "wepl_p95_0": 1.26,
    "wepl_region_2_0": 0.5,
    "wepl_bias_22.5": 3.0,
    "wepl_p95_22.5": 4.0,
    "wepl_region_2_22.5": None,
    "mae_region_2": 12.345,
    "bias_region_2": -3.0,
    "mae_region_10": None,
    "dice_2": 0.98765,
    "mae_bone": 50.0,
}


def rows(html):
    lines = re.findall("<tr>(.+?)</tr>", html)
    return [re.split("<t[hd][^>]*>", line)[1:] for line in lines]


def test_angles_and_regions_are_rows_with_units_above_and_decimals_by_column():
    heads, front, oblique, titles, second, tenth = rows(depth_tables(VALUES, "HU"))
    assert heads[1:] == ["mean [mm]", "p95 [mm]", "to centre of region 2 [mm]"]
    assert front == ["0", "-0.0", "1.3", "0.5"]
    assert oblique == ["22.5", "3.0", "4.0", "-"]
    assert titles == ["region", "MAE [HU]", "bias [HU]", "Dice"]
    assert second == ["2", "12.3", "-3.0", "0.988"]
    assert tenth == ["10", "-", "-", "-"]
    assert rows(depth_tables(VALUES, ""))[3][1] == "MAE"


def test_without_depths_and_regions_there_is_nothing():
    plain = {name: VALUES[name] for name in ("mae", "bias", "wepl_p95", "mae_bone")}
    assert depth_tables(plain, "HU") == ""
    assert {name for name in VALUES if not is_of_section(name)} == set(plain)
