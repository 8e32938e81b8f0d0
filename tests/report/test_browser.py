"""The report in a real, headless Chromium: run with `pytest -m browser`."""

from __future__ import annotations

import numpy as np
import pytest
from report.browser import Browser, missing_browser
from report.phantoms import (
    GEOMETRY,
    SHAPE,
    several_methods,
    target,
    unpack,
    write_case,
    write_record,
)

from gdmnet.commands.report import main

pytestmark = pytest.mark.browser
READY = 'return document.getElementById("viewer").dataset.ready'
VIEW = 'return document.getElementById("viewer").dataset'


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    if missing_browser():
        pytest.skip(missing_browser())
    home = tmp_path_factory.mktemp("report")
    for seed, (name, error) in enumerate((("good", 20), ("bad <b>", 300), ("middle", 100))):
        write_case(home, name, seed, error=error, spread=5 + seed)
    write_record(home, {"middle": {"warnings": ["odd & old"]}})
    folders = ["-p", str(home / "out"), "-r", str(home / "targets"), "-s", str(home / "in")]
    assert main([*folders, "-np", "1"]) == 0
    return home


@pytest.fixture(scope="module")
def window(home):
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(home, window):
    """The report, freshly opened at the worst case; at the end the console must be silent."""
    window.resize(1280, 800)
    window.open(home / "out/report.html")
    window.wait(READY)
    yield window
    told = [line for line in window.log() if "willReadFrequently" not in line]  # the test reads
    assert told == []
    assert window.run("return performance.getEntriesByType('resource').length") == 0


def order(browser):
    return browser.run(
        "return [...document.querySelectorAll('#cases .open')].map(b => b.textContent)"
    )


def state(browser):
    """Crosshair (z, y, x) and the window of prediction and target."""
    browser.run(
        "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    data = browser.run(VIEW)
    return [int(i) for i in data["at"].split(",")], [float(v) for v in data["image"].split(",")]


def canvas(plane, panel="prediction"):
    return f'canvas[data-plane="{plane}"][data-panel="{panel}"]'


def place(browser, plane, voxel, panel="prediction"):
    """The pixel of the window (x, y) at a voxel's middle."""
    script = """
        const cell = cells.find(c => c.plane === arguments[0] && c.panel.title === arguments[2]);
        cell.canvas.scrollIntoView({block: "center"});
        const {down, right, flip} = PLANES[cell.plane], shape = shown.view.shape, p = cell.place;
        const row = flip ? shape[down] - 1 - arguments[1][down] : arguments[1][down];
        const box = cell.canvas.getBoundingClientRect();
        return [box.left + p.left + (arguments[1][right] + .5) * p.across,
                box.top + p.top + (row + .5) * p.below];"""
    return tuple(round(v) for v in browser.run(script, plane, voxel, panel))


def pixel(browser, plane, voxel, panel="prediction"):
    """The colour (r, g, b) that the canvas shows at a voxel's middle."""
    x, y = place(browser, plane, voxel, panel)
    script = """
        const canvas = document.querySelector(arguments[0]), box = canvas.getBoundingClientRect();
        return [...canvas.getContext("2d").getImageData(
            arguments[1] - box.left, arguments[2] - box.top, 1, 1).data].slice(0, 3);"""
    return browser.run(script, canvas(plane, panel), x, y)


def stored(browser, title):
    """A volume of the open case as Python unpacks it."""
    find = "return shown.view.pictures.find(p => p.title === arguments[0]).packed"
    packed = browser.run(find, title)
    return unpack(packed["text"], packed["step"], SHAPE)


def show_raw_voxels(browser):
    """Nothing on top of the voxels, and no interpolation."""
    for name in ("crosshair", "smooth"):
        browser.click(f'#options [data-name="{name}"]')


def test_it_opens_at_the_worst_place_of_the_worst_case(browser):
    assert order(browser) == ["bad <b>", "middle", "good"]
    title = browser.run("return document.getElementById('case-title').textContent")
    assert title == "bad <b>"
    z, y, x = state(browser)[0]
    assert (
        target(1)[max(0, z - 2) : z + 3, max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].max() > 800
    )


def test_columns_sort_worst_first_then_best_first(browser):
    head = "#cases th:nth-child({}) button"
    browser.click(head.format(5))  # PSNR
    assert order(browser) == ["bad <b>", "middle", "good"]
    sort = "return document.querySelector('#cases th:nth-child(5)').getAttribute('aria-sort')"
    assert browser.run(sort) == "ascending"  # the lowest PSNR on top
    browser.click(head.format(5))
    assert order(browser) == ["good", "middle", "bad <b>"]
    browser.click(head.format(2))  # warnings
    assert order(browser)[0] == "middle"
    browser.click(head.format(1))
    assert order(browser) == ["bad <b>", "good", "middle"]
    assert browser.run("return document.querySelectorAll('#cases [aria-sort]').length") == 1


def test_a_case_opens_with_its_own_charts_and_warnings(browser):
    browser.click('#cases tr[data-case="2"] .open')  # middle: cases are numbered by name
    browser.wait(f"{READY} === '2'")
    text = "return [...document.querySelectorAll('.per-case')].filter(p => p.offsetParent).length"
    assert browser.run("return document.getElementById('case-title').textContent") == "middle"
    assert "odd & old" in browser.run("return document.getElementById('viewer').textContent")
    assert browser.run(text) == 3  # warnings, facts, charts
    assert browser.run("return document.activeElement.id") == "viewer"


def test_a_window_in_hu_stays_with_the_next_case_and_that_of_the_source_does_not(browser):
    browser.click('[data-name="bone"]')
    browser.click("#next")
    browser.wait(f"{READY} === '2'")
    assert state(browser)[1] == [-500, 1300]
    source = browser.run("return shown.panels.find(panel => panel.kind === 'source')")
    assert browser.run("return shown.windows[arguments[0]]", source["window"]) == source["fitted"]
    low, high = np.percentile(stored(browser, "source"), (70, 99.9))
    assert low - 50 < source["fitted"][1] < high + 50


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_right_voxels_are_shown_the_right_way_round(browser, plane):
    show_raw_voxels(browser)
    browser.run("moveTo(0, 4); moveTo(1, 7); moveTo(2, 17)")
    at, (low, high) = state(browser)
    assert at == [4, 7, 17]
    volume = stored(browser, "prediction")
    moving = {"axial": (1, 2), "coronal": (0, 2), "sagittal": (0, 1)}[plane]
    n_grey = 0
    for a in (0.2, 0.35, 0.5, 0.65, 0.8):
        for b in (0.25, 0.4, 0.55, 0.7):
            voxel = list(at)
            voxel[moving[0]], voxel[moving[1]] = (
                int(share * SHAPE[axis]) for share, axis in zip((a, b), moving, strict=True)
            )
            value = (volume[tuple(voxel)] - low) / (high - low)
            expected = 255 * min(1.0, max(0.0, float(value)))
            assert pixel(browser, plane, voxel) == pytest.approx([expected] * 3, abs=2), voxel
            n_grey += 2 < expected < 253
    assert n_grey > 3  # not only black and white


def test_the_error_is_orange_where_the_prediction_is_too_high(browser):
    show_raw_voxels(browser)
    browser.run("moveTo(0, 4); moveTo(1, 7); moveTo(2, 17)")
    state(browser)
    assert pixel(browser, "axial", [4, 7, 17], "error") == pytest.approx([255, 130, 30], abs=3)
    assert max(pixel(browser, "axial", [4, 12, 5], "error")) < 60  # soft tissue: 30 HU of 200


def test_windows_change_what_is_grey(browser):
    show_raw_voxels(browser)
    browser.run("moveTo(0, 4); moveTo(1, 7); moveTo(2, 17)")
    assert state(browser)[1] == [-160, 240]
    assert pixel(browser, "axial", [4, 7, 17]) == [255, 255, 255]
    browser.click('[data-name="bone"]')
    assert state(browser)[1] == [-500, 1300]
    expected = 255 * (stored(browser, "prediction")[4, 7, 17] + 500) / 1800
    assert pixel(browser, "axial", [4, 7, 17])[0] == pytest.approx(min(255, expected), abs=2)
    browser.keys(canvas("axial"), "2")
    assert state(browser)[1] == [-1350, 150]
    browser.keys("#level", "\ue009a\ue00050")  # Ctrl + a, then 50
    assert sum(state(browser)[1]) == 100


def test_the_window_in_use_is_marked(browser):
    pressed = "[...document.querySelectorAll('#presets [aria-pressed=true]')]"
    marked = f"return {pressed}.map(button => button.dataset.name)"
    state(browser)
    assert browser.run(marked) == ["soft tissue"]
    browser.click('[data-name="bone"]')
    state(browser)
    assert browser.run(marked) == ["bone"]
    browser.run("setWindow('image', 1, 2)")
    state(browser)
    assert browser.run(marked) == []


def test_a_bone_window_stands_beside_the_first_on_request(browser):
    show_raw_voxels(browser)
    heads = "return [...document.querySelectorAll('.head')].map(h => h.dataset.title)"
    assert not any("bone" in title for title in browser.run(heads))
    browser.click('[data-name="bone beside"]')
    assert browser.run(heads)[1:5] == ["prediction", "prediction, bone", "target", "target, bone"]
    browser.run("moveTo(0, 4); moveTo(1, 7); moveTo(2, 17)")
    assert state(browser)[1] == [-160, 240]
    expected = 255 * (stored(browser, "target")[4, 7, 17] + 500) / 1800
    assert pixel(browser, "axial", [4, 7, 17], "target") == [255, 255, 255]
    assert pixel(browser, "axial", [4, 7, 17], "target, bone")[0] == pytest.approx(expected, abs=2)
    text = browser.run("return document.getElementById('readout').textContent")
    assert text.count("target") == 1


def test_errors_outside_the_mask_are_dimmed(browser):
    show_raw_voxels(browser)
    browser.run("moveTo(0, 4); shown.mask.fill(0, 4 * 520, 5 * 520)")
    state(browser)
    inside = np.array([255, 130, 30])
    assert pixel(browser, "axial", [4, 7, 17], "error") == pytest.approx(0.35 * inside, abs=3)
    assert pixel(browser, "axial", [4, 7, 17]) == [255, 255, 255]


def test_keys_work_without_a_click(browser):
    z, y, x = state(browser)[0]
    browser.run(
        "document.activeElement.dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'ArrowUp', bubbles: true}))"
    )
    assert state(browser)[0] == [z + 1, y, x]


def test_the_planes_of_a_single_panel_stand_side_by_side(browser):
    for panel in ("source", "target", "error", "uncertainty (SD)"):
        browser.click(f'#panels [data-name="{panel}"]')
    places = browser.run(
        "return cells.map(c => [Math.round(c.canvas.offsetTop), Math.round(c.canvas.offsetLeft)])"
    )
    assert len(places) == 3
    assert len({top for top, _ in places}) == 1
    assert len({left for _, left in places}) == 3


def test_dragging_the_mouse_changes_window_and_level(browser):
    start = place(browser, "axial", [4, 10, 13])
    before, at = state(browser)[1], state(browser)[0]
    browser.drag(start, (60, 0))
    low, high = state(browser)[1]
    assert high - low > 1.2 * (before[1] - before[0])
    assert low + high == pytest.approx(sum(before))
    browser.drag(start, (0, 60))
    assert sum(state(browser)[1]) > sum(before) + 50
    assert state(browser)[0] == at
    reach = browser.run("return shown.windows.error[1]")
    browser.drag(place(browser, "axial", [4, 10, 13], "error"), (60, 0))
    state(browser)
    assert browser.run("return shown.windows.error[1]") > 1.2 * reach


def test_a_click_moves_all_planes_and_the_wheel_the_slice(browser):
    before = state(browser)[0]
    x, y = place(browser, "coronal", [9, before[1], 8])
    browser.drag((x, y), (0, 0))
    assert state(browser)[0] == [9, before[1], 8]
    x, y = place(browser, "axial", [9, 10, 13])
    browser.wheel(x, y, 120)
    assert state(browser)[0][0] < 9
    assert state(browser)[0][1:] == [before[1], 8]
    slider = "return document.querySelector('.travel[data-plane=axial] input').value"
    assert int(browser.run(slider)) == state(browser)[0][0]


def test_the_readout_tells_values_and_voxel_under_the_pointer(browser):
    at = state(browser)[0]
    browser.hover(*place(browser, "axial", [at[0], 11, 9], "target"))
    text = browser.run("return document.getElementById('readout').textContent")
    truth, guess = (stored(browser, title)[at[0], 11, 9] for title in ("target", "prediction"))
    assert f"x 9 y 11 z {at[0]}, at (9.0, 16.5, {3 * at[0]}.0) mm" in text
    assert f"target {round(float(truth))} HU" in text
    assert f"error +{round(float(guess - truth))} HU" in text


def test_keys_do_what_the_mouse_does(browser):
    z, y, x = state(browser)[0]
    axial = canvas("axial")
    browser.keys(axial, "\ue013")  # up
    assert state(browser)[0] == [z + 1, y, x]
    browser.run("chosen.active = 'axial'; moveTo(0, 0)")
    browser.keys(axial, "\ue010")  # end
    assert state(browser)[0][0] == SHAPE[0] - 1
    browser.keys(axial, "w")
    assert state(browser)[0] == [z, y, x]
    browser.keys(axial, "n")
    browser.wait(f"{READY} === '2'")
    browser.keys(axial, "p")
    browser.wait(f"{READY} === '0'")
    browser.run(
        "const b = new KeyboardEvent('keydown', {key: 'b', bubbles: true});"
        "document.activeElement.dispatchEvent(b)"
    )
    state(browser)
    assert (
        browser.run("return document.querySelector('.head[data-title=prediction] b').textContent")
        == "TARGET"
    )
    browser.run("document.dispatchEvent(new KeyboardEvent('keyup', {key: 'b'}))")
    state(browser)
    assert browser.run("return chosen.flicker") is False


def test_zoom_keeps_what_is_under_the_pointer_and_reset_brings_all_back(browser):
    before = place(browser, "axial", [4, 6, 18])
    browser.drag(before, (0, -60), button="right")
    state(browser)
    assert browser.run("return shown.zoom") > 1.5
    browser.click('[data-name="reset"]')
    state(browser)
    assert place(browser, "axial", [4, 6, 18]) == before
    browser.run(
        "arguments[0]; cells[1].canvas.dispatchEvent(new WheelEvent('wheel', {ctrlKey: true,"
        " deltaY: -300, clientX: arguments[0][0], clientY: arguments[0][1], cancelable: true}))",
        before,
    )
    state(browser)
    assert browser.run("return shown.zoom") > 1.5
    assert np.abs(np.subtract(place(browser, "axial", [4, 6, 18]), before)).max() <= 3


def test_panels_and_planes_can_be_put_away_but_not_all(browser):
    for plane in ("coronal", "sagittal", "axial"):
        browser.click(f'#planes [data-name="{plane}"]')
    count = "return document.querySelectorAll('canvas.slice').length"
    assert browser.run(count) == 5
    for panel in ("source", "prediction", "error", "uncertainty (SD)"):
        browser.click(f'#panels [data-name="{panel}"]')
    assert browser.run(count) == 1
    browser.click('#panels [data-name="target"]')
    assert browser.run(count) == 1


def test_a_tablet_shows_all_without_scrolling_sideways_and_takes_fingers(browser):
    browser.resize(768, 1024, touch=True)
    browser.wait("return document.documentElement.clientWidth === 768")
    _, y, x = state(browser)[0]
    assert browser.run("return document.documentElement.scrollWidth") <= 768
    browser.run("moveTo(0, 6)")
    browser.touch_drag(place(browser, "axial", [6, 5, 13]), (0, 20))
    assert state(browser)[0] == [4, y, x]
    heights = "return [...document.querySelectorAll('#viewer button')].map(b => b.offsetHeight)"
    assert min(browser.run(heights)) >= 36


def test_two_fingers_zoom_without_a_jump(browser):
    browser.resize(768, 1024, touch=True)
    browser.wait("return document.documentElement.clientWidth === 768")
    at, _ = state(browser)
    middle = place(browser, "axial", [at[0], 10, 13])
    centre = browser.run("return shown.centre")
    browser.pinch(middle, (20, 40))
    assert state(browser)[0] == at
    assert browser.run("return shown.zoom") == pytest.approx(2, abs=0.2)
    assert browser.run("return shown.centre") == pytest.approx(centre, abs=2)


def test_everything_has_a_name_for_those_who_cannot_see_it(browser):
    nameless = """
        const all = [...document.querySelectorAll('button, input, canvas.slice, img, svg')];
        return all.filter(e => !(e.textContent.trim() || e.alt || e.getAttribute('aria-label')
            || (e.labels && e.labels.length))).map(e => e.outerHTML)"""
    assert browser.run(nameless) == []


def test_all_metrics_can_be_shown(browser):
    heads = "[...document.querySelectorAll('#cases thead th')]"
    shown = f"return {heads}.filter(h => h.offsetParent).length"
    few = browser.run(shown)
    browser.click("#more")
    assert browser.run(shown) > few + 5


def test_a_report_without_targets_shows_what_there_is(home, browser):
    output = home / "alone.html"
    assert main(["-p", str(home / "out"), "-o", str(output), "-np", "1"]) == 0
    browser.open(output)
    browser.wait(READY)
    titles = browser.run("return [...document.querySelectorAll('.head b')].map(b => b.textContent)")
    assert titles == ["prediction", "uncertainty (SD)"]
    assert browser.run("return document.getElementById('places').hidden")
    assert GEOMETRY.shape == tuple(browser.run("return shown.view.shape"))


def test_several_methods_stand_beside_the_target_and_share_window_and_crosshair(home, browser):
    path = home / "several.html"
    path.write_text(several_methods(home / "several", ["a", "b", "c"]), encoding="utf-8")
    browser.open(path)
    browser.wait(READY)
    where = """return [...document.querySelectorAll('.head')].map(
        h => [h.dataset.title, Math.round(h.offsetTop), Math.round(h.offsetLeft)])"""
    for width in (1400, 500):
        browser.resize(width, 1000)
        browser.wait(f"return document.documentElement.clientWidth === {width}")
        state(browser)
        places = {title: (top, left) for title, top, left in browser.run(where)}
        top, below = places["target"][0], places["source MR"][0]
        assert [places[m][0] for m in "abc"] == [top] * 3
        assert [places[f"{m}: error"][0] for m in "abc"] == [below] * 3
        assert all(places[m][1] == places[f"{m}: error"][1] for m in "abc")
        assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.run("document.getElementById('stage').scrollLeft = 1000")
    left = "return document.querySelector('canvas[data-panel=target]').getBoundingClientRect().left"
    assert 0 <= browser.run(left) < 30  # the target stays beside what is compared with it
    browser.click('[data-name="bone"]')
    state(browser)
    windows = "return shown.panels.filter(p => p.window === 'image').map(p => p.title)"
    assert browser.run(windows) == ["a", "b", "c", "target"]
    browser.click('#panels [data-name="errors"]')
    browser.click('#panels [data-name="b"]')
    state(browser)
    assert [title for title, *_ in browser.run(where)] == ["target", "a", "c", "source MR"]
