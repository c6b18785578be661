import xml.etree.ElementTree as ElementTree

import pytest

from nnsparse_stream.training.reasons_chart import Listed, reasons_chart

LISTED = [
    Listed("x & y", 0.8, {"<a>": 0.3, "b": 0.1}),
    Listed("z", 0.4, {"b": 0.2, "c": 0.01}),
    Listed("none", -0.2, {}),
]
COLOURS = {"<a>": 0, "b": 1, "c": 2, "x & y": 0, "z": 7, "none": 3}


def drawn(listed):
    return ElementTree.fromstring(reasons_chart(listed, {"b": "4 ★"}, COLOURS, ("liked", "listed"), "caption"))


def test_bands_are_as_thick_as_reasons_and_bars_as_long_as_scores():
    root = drawn(LISTED)
    bands = {band.find("title").text: band for band in root.findall(".//path")}
    assert list(bands) == [
        "<a> adds 0.300 to x & y", "b adds 0.100 to x & y", "b adds 0.200 to z", "c adds 0.010 to z"
    ]  # fmt: skip
    widths = [float(band.attrib["stroke-width"]) for band in bands.values()]
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.02)
    assert widths[0] / widths[2] == pytest.approx(1.5, rel=0.02)
    assert [band.attrib["stroke"] for band in bands.values()] == [f"var(--s{colour})" for colour in (0, 1, 1, 2)]
    scores = [float(bar.attrib["width"]) for bar in root.findall(".//rect[@height='14']")]
    assert scores == pytest.approx([150, 75, 0])
    assert "".join(root.find("figcaption").itertext()) == "caption"


def test_items_stand_in_order_and_bands_meet_their_bars():
    root = drawn(LISTED)
    labels = ["".join(text.itertext()) for text in root.findall(".//text[@class='label']")]
    assert labels == ["<a>", "b4 ★", "c", "x & y", "z", "none"]
    # The second bar of the left, from which two bands leave: these fill it from top to bottom.
    bar = root.findall(".//rect[@width='7']")[1]
    top, height = float(bar.attrib["y"]), float(bar.attrib["height"])
    leaving = [band for band in root.findall(".//path") if band.find("title").text.startswith("b ")]
    middles = [float(band.attrib["d"].split("C")[0].split()[1]) for band in leaving]
    widths = [float(band.attrib["stroke-width"]) for band in leaving]
    assert middles[0] - widths[0] / 2 == pytest.approx(top, abs=0.2)
    assert middles[1] + widths[1] / 2 == pytest.approx(top + height, abs=0.2)
    assert middles[0] + widths[0] / 2 == pytest.approx(middles[1] - widths[1] / 2, abs=0.2)


def test_the_known_items_that_give_most_are_shown_and_a_list_without_reasons_is_one():
    many = [Listed("z", 1.0, {"<a>": 0.1, "b": 0.3, "c": 0.2})]
    assert [band.find("title").text for band in drawn(many).findall(".//path")] == ["b adds 0.300 to z"]
    assert not drawn([Listed("z", 0.0, {})]).findall(".//path")
