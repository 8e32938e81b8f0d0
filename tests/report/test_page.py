import re
from html.parser import HTMLParser

import pytest

from gdmnet.metrics.summary import summarise
from gdmnet.report.page import ReportPage, render
from gdmnet.report.provenance import CaseOrigin, Origin
from gdmnet.report.view import CasePage

NAME = 'A&B<"C">'
VOID = {"meta", "img", "input", "br", "th", "td", "li", "dt", "dd"}


class Outline(HTMLParser):
    """Elements, and whether all that is opened is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.wrong, self.seen, self.links, self.inputs = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.seen.append((tag, given))
        self.links += [given[key] for key in ("src", "href", "action") if given.get(key)]
        if tag not in VOID and tag != "path" and tag != "rect" and tag != "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


def page_of(**changes):
    case = CasePage(NAME, "{}", ("<figure></figure>",), ("5 > 4",), ("prediction",), "")
    values = {
        "title": "Predictions in <out>",
        "cases": (case,),
        "summaries": {},
        "origin": Origin(),
        "made": (("command", "gdm_report -p '<x>'"),),
    }
    return ReportPage(**{**values, **changes})


def test_the_page_is_well_formed_and_needs_nothing_else():
    html = render(page_of())
    outline = Outline(html)
    assert outline.wrong == []
    assert all(link.startswith(("data:", "#")) for link in outline.links)
    assert "default-src 'none'" in html
    assert not re.search(r"https?://", html)
    assert "$" + "{" not in html.split("<script>")[0]


def test_names_from_files_are_escaped():
    case = CaseOrigin(warnings=("<script>alert(1)</script>",), inputs=(("<f>", "ff"),))
    html = render(page_of(origin=Origin((("model.<b>", "<i>"),), {NAME: case})))
    text = html.split('<script type="application/json"')[0]
    for raw in ('<"C">', "<script>alert", "<i>", "<f>", "<out>", "<x>"):
        assert raw not in text, raw
    assert "A&amp;B&lt;&quot;C&quot;&gt;" in text


def test_warnings_failures_and_what_is_unknown_are_said_at_the_top():
    cases = {
        NAME: CaseOrigin(warnings=("unlike the training",)),
        "b": CaseOrigin(error="no memory"),
    }
    html = render(page_of(origin=Origin((), cases)))
    top = html.split('<section id="viewer"')[0]
    assert "unlike the training" in top
    assert "no memory" in top
    assert "No targets were given" in top
    assert "no predictions.json" in top


def test_a_model_trained_anew_is_told_at_the_top():
    rows = (("checkpoint of fold 0", "DIFFERS: trained anew"),)
    html = render(page_of(origin=Origin(rows)))
    assert "DIFFERS: trained anew" in html.split('<section id="viewer"')[0]


def test_targets_without_a_unit_are_told_apart():
    case = {"mae": 1.0, "data_range": 5.0}
    plain = summarise({NAME: case}, units="", mask="given")
    matched = summarise({NAME: case}, units="", mask="given", match_intensity="linear")
    assert "have no unit" in render(page_of(summaries={"prediction": plain}))
    assert "have no unit" not in render(page_of(summaries={"prediction": matched}))


@pytest.mark.parametrize(
    ("findings", "told"),
    [((), "like the training data"), ((("spacing", "5 mm", "1 to 2", "1 to 3"),), "<td>5 mm")],
)
def test_the_input_check_is_told_for_each_case(findings, told):
    origin = Origin((), {NAME: CaseOrigin(findings=findings)})
    assert told in render(page_of(origin=origin))
