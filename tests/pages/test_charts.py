"""A chart is a picture that any program opens, and its y axis shows where the curves have settled."""

import xml.etree.ElementTree as ET

import pytest

from lucidlm.pages.charts import BOTTOM, HEIGHT, LEFT, TOP, Chart, Curve, svg, ticks, value_range

FALLING = Curve("a <b> & c: validation", [0, 10, 50, 100], [5.5, 3.0, 2.0, 1.9])
STARTING = Curve("batch", [1, 50, 100], [5.4, 2.1, None], kind="thin")


def elements(picture: str, name: str) -> list[ET.Element]:
    return ET.fromstring(picture).findall(f".//{{http://www.w3.org/2000/svg}}{name}")


def test_the_picture_is_xml_with_a_line_for_each_curve_and_all_names():
    picture = svg(Chart("loss", [FALLING, STARTING], stars=[(100, 1.9, 0)]))
    texts = [each.text for each in elements(picture, "text")]
    assert {"a <b> & c: validation", "batch", "step", "loss"} <= set(texts)
    lines = [each.attrib["points"].split() for each in elements(picture, "polyline")]
    assert [len(points) for points in lines] == [4, 2]  # a value that is not finite leaves a gap
    x = [float(point.split(",")[0]) for point in lines[0]]
    assert x[0] == LEFT
    assert (x[2] - x[0]) / (x[3] - x[0]) == pytest.approx(0.5, abs=0.01)
    seconds = svg(Chart("loss", [FALLING], x_title="seconds < 9"))
    assert "seconds < 9" in [each.text for each in elements(seconds, "text")]
    (star,) = elements(picture, "circle")
    assert f"{star.attrib['cx']},{star.attrib['cy']}" == lines[0][-1]


def test_the_y_axis_leaves_out_the_first_tenth_of_the_steps_unless_the_whole_is_asked_for():
    low, high = value_range([FALLING, STARTING], whole=False)
    assert low < 1.9
    assert 3.0 < high < 3.2
    assert value_range([FALLING, STARTING], whole=True)[1] > 5.5


def test_a_flat_curve_and_none_at_all_have_a_range():
    for curves in ([Curve("flat", [1, 2], [3.0, 3.0])], [Curve("empty", [], [])], []):
        low, high = value_range(curves, whole=False)
        assert low < high
        assert elements(svg(Chart("loss", curves)), "rect")


@pytest.mark.parametrize(("low", "high"), [(0, 803), (1.87, 2.46), (0.0001, 0.0009), (0, 1), (-2, 1e6)])
def test_ticks_are_a_few_round_numbers_between_the_ends(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 9
    assert low <= found[0] < found[-1] <= high
    assert all(float(f"{tick:.2g}") == pytest.approx(tick, rel=0.05) for tick in found)


def test_many_names_push_the_chart_down_and_a_star_at_its_edge_is_whole():
    curves = [Curve(f"a long name of a run, {place}: validation", [0, 9], [2.0, 1.0]) for place in range(12)]
    picture = svg(Chart("loss", curves, stars=[(9, 1.0, 0)]))
    names = [float(each.attrib["y"]) for each in elements(picture, "text") if "long" in each.text]
    clip = ET.fromstring(picture).find(".//{http://www.w3.org/2000/svg}clipPath")[0]
    assert max(names) < float(clip.attrib["y"])
    assert float(clip.attrib["height"]) == HEIGHT - TOP - BOTTOM
    clipped = [each for each in elements(picture, "g") if "clip-path" in each.attrib]
    assert not [circle for group in clipped for circle in group.iter("{http://www.w3.org/2000/svg}circle")]
