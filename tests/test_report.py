import xml.etree.ElementTree as ElementTree

import pytest

from nnsparse_stream import report


def test_a_page_is_well_formed_and_needs_no_network():
    page = report.page(
        "A <title>",
        "lead & more",
        [
            report.section("Curve", "text"),
            report.line_chart(
                [report.Series("a & b", [1, 2, 3], [0.9, 0.85, 0.84]), report.Series("c", [1, 2, 3], [1, 0.9, 0.88])],
                "epoch",
                "RMSE",
                "caption",
                levels=[("floor", 0.8)],
            ),
            report.bar_chart(["0", "1-4"], [("RMSE", [1.0, 0.9])], "ratings", "RMSE", "caption"),
            report.table(("name", "RMSE", "count"), [("<x>", 0.12345, 12345)], strong=0),
        ],
    )
    body = page[page.index("<body>") : page.index("</html>")].removesuffix("\n")
    root = ElementTree.fromstring(body)
    assert len(root.findall(".//polyline")) == 2
    assert len(root.findall(".//rect")) == 2 + 2  # bars and the legend
    assert "&lt;x&gt;" in page
    assert "0.1235" in page or "0.1234" in page
    assert "12,345" in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.84, 0.9], [0.84, 0.86, 0.88, 0.9]), ([5.0], [5.0, 6.0]), ([0.0, 1.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])],
)
def test_ticks_are_round_and_enclose_the_values(values, expected):
    assert report._ticks(values) == pytest.approx(expected)
