import xml.etree.ElementTree as ElementTree

import pytest

from nnsparse_stream.training import report


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


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.7, 1382], [5, 10, 20, 50, 100, 200, 500, 1000, 2000]),
        ([0.3], [0.2, 0.5]),
        ([1], [1]),
        ([10, 20], [10, 20]),
        ([3, 3e6], [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7]),
    ],
)
def test_logarithmic_ticks_are_round_and_enclose_the_values(values, expected):
    assert report._logarithmic_ticks(values) == pytest.approx(expected)


def test_a_chart_file_needs_nothing_from_a_page_and_spaces_powers_of_ten_equally():
    file = report.line_chart_file(
        [report.Series("<a>", [10, 100, 1000], [1, 10, 100])], "columns", "ms", "Time & columns", logarithmic=True
    )
    root = ElementTree.fromstring(file)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in file
    line = root.find(".//{*}polyline")
    assert line is not None
    (x0, y0), (x1, y1), (x2, y2) = [map(float, point.split(",")) for point in line.attrib["points"].split()]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    assert y2 < y0
    assert [text.text for text in root.findall(".//{*}text")] == [
        "1", "2", "5", "10", "20", "50", "100", "10", "100", "1,000", "columns", "ms"
    ]  # fmt: skip
