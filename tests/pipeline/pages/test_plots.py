"""Plots, bars and matrices as parts of a page."""

import re

import numpy as np
import pytest
from PIL import Image

from pipeline.heads.names import head_name, heads_name, neurons_name
from pipeline.pages import figures
from pipeline.pages.fragments import Bar, bars, matrix
from pipeline.pages.html import link, page, section
from pipeline.pages.pictures import data_url, heat
from pipeline.pages.plots import plot
from tests.pipeline.pages import kit


def line(name):
    def draw(axis):
        axis.plot([0, 1], [0, 1], "o-")
        axis.set_xlabel(name)

    return plot(draw, f"about {name}")


def test_texts_of_a_plot_are_texts():
    svg = line("5 $a$ < b_1 & c")
    assert re.search(r"<text[^>]*>5 \$a\$ &lt; b_1 &amp; c</text>", svg)
    assert 'aria-label="about 5 $a$ &lt; b_1 &amp; c"' in svg
    assert "currentColor" in svg
    assert not re.search("#010203|font-family|#000000|#ffffff|DOCTYPE|<style", svg)


def test_a_plot_is_the_same_each_time_and_shares_no_id_with_another():
    assert line("a") == line("a")
    first, second = (set(re.findall(r' id="([^"]+)"', line(name))) for name in "ab")
    assert first
    assert not first & second
    used = re.findall(r'(?:url\(|href=")#([^")]+)', line("a"))
    assert set(used) == first


def test_colours_of_a_matrix_are_symmetric_and_unsure_cells_hatched():
    values = np.array([[-0.1, 0.05], [0.02, np.nan]])
    unsure = np.array([[False, False], [True, False]])
    table = matrix(
        values, ["a", "b"], ["c", "<d>"], "{:+.0%}".format, corner="x", unit="y", unsure=unsure
    )
    assert re.findall(r'<td(?: class="(.*?)")? style="--v:(\d+)%">(.*?)</td>', table) == [
        ("minus", "100", "-10%"), ("", "50", "+5%"), ("unsure", "20", "+2%"), ("", "0", ""),
    ]  # fmt: skip
    assert "&lt;d&gt;" in table
    assert re.findall(r"<span>(.*?)</span>", table) == ["-10%", "+10%"]
    assert "hatched" in table
    plain = matrix(abs(values), ["a", "b"], ["c", "d"], "{:.0%}".format, corner="", unit="y")
    assert re.findall(r"<span>(.*?)</span>", plain) == ["0", "10%"]
    assert "hatched" not in plain


def test_bars_are_as_long_as_their_numbers():
    shown = bars([Bar("<i>", "+2", 2.0), Bar("snow", "-1", -1.0)])
    assert re.findall(r"<li(.*?)>", shown) == [
        ' style="--v:100.0%"', ' class="minus" style="--v:50.0%"'
    ]  # fmt: skip
    assert "&lt;i&gt;" in shown
    assert "--v:0.0%" in bars([Bar("nothing", "0", 0.0)])


def test_ablations_say_what_may_be_no_change_and_where_chance_is():
    table = kit.accuracies()
    found = figures.ablation_figures(table)
    assert list(found) == ["mlps", "layers", "heads", "chosen"]
    assert found["heads"].count("unsure") == 3
    assert "Hollow points" in found["layers"]
    assert "Hollow points" not in found["mlps"]
    assert "Chance, 33.3%, lies outside" in found["mlps"]
    near = table.assign(low=table["low"] - 0.2)
    assert "chance, 33.3%</text>" in figures.ablation_figures(near)["mlps"]
    assert "does not begin at 0" in found["mlps"]
    low = figures.ablation_figures(table.assign(low=0.0))["mlps"]
    assert "does not begin at 0" not in low
    unknown = figures.ablation_figures(table[table["scope"] == "all"])
    assert not any("hance" in of for of in unknown.values())


def test_maps_are_blue_where_positive_and_orange_where_negative():
    shown = np.asarray(heat(np.full((8, 8, 3), 128, np.uint8), np.array([[1.0, -1.0], [0.0, 3.0]])))
    (red, _, blue), (other_red, _, other_blue) = shown[0, 0].astype(int), shown[0, 7].astype(int)
    assert blue - red > 100
    assert other_red - other_blue > 100
    assert len(set(shown[7, 0])) == 1
    assert (shown[7, 7] == shown[0, 0]).all()


@pytest.mark.parametrize(("side", "kind"), [(64, "png"), (300, "webp")])
def test_small_pictures_are_kept_exactly(side, kind):
    assert data_url(Image.new("RGB", (side, side))).startswith(f"data:image/{kind};")


def test_heads_have_one_name():
    assert head_name(3, 0) == "layer 3, head 0"
    assert heads_name([(3, 2), (2, 1), (3, 0), (3, 1)]) == (
        "layer 2, head 1; layer 3, heads 0, 1 and 2"
    )
    assert neurons_name([(2, 17)]) == "MLP layer 2, neuron 17"


def test_every_head_has_its_texts_whole():
    shown = figures.textspan_figure(kit.descriptions(), 2)
    assert re.findall("<h3>(.*?)</h3>", shown) == [f"layer 2, head {i}" for i in range(3)]
    assert (
        shown.count("purple moons on a beach, at night, with &lt;b&gt;&amp; $x$ in a corner") == 3
    )


def test_tables_stand_beside_a_plot_where_there_is_room():
    def table(*rows):
        return page("", "", [section("a", header=("name", "n"), rows=rows)])

    narrow = table(("snow", link("12%", "#a")), ("a star", "none"), ("<b>", "−3.5"))
    assert 'class="table beside"' in narrow
    assert re.findall(r'<t[dh](?: scope="col")?( class="\w+")?>', narrow) == [
        "", ' class="n"', *(["", ' class="n"'] * 3)
    ]  # fmt: skip
    assert 'class="n"><a href="#a">12%</a></td>' in narrow
    wide = table((kit.LONG, "1"))
    assert 'class="table"' in wide
    assert '<td class="text">' in wide
