"""Figures as SVG files are short, and look as matplotlib drew them."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from kvpress_video.report.style import drawing, save

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def test_a_saved_svg_differs_by_less_than_a_pixel_and_keeps_its_texts(tmp_path: Path) -> None:
    with drawing():
        figure = Figure(figsize=(4, 3))
        axes = figure.subplots()
        axes.plot([0.123456, 1.234567], [2.345678, 3.456789], marker="o")
        axes.set_title("at 1.5625%")
        figure.savefig(tmp_path / "plain.svg", facecolor="white", metadata={"Date": None})
    save(figure, tmp_path / "saved.svg")
    plain, saved = (ElementTree.fromstring((tmp_path / f"{name}.svg").read_text()) for name in ("plain", "saved"))
    assert [each.tag for each in saved.iter()] == [each.tag for each in plain.iter()]
    assert "at 1.5625%" in {each.text for each in saved.iter()}
    for one, other in zip(saved.iter(), plain.iter(), strict=True):
        for name in ("d", "x", "y"):
            found, wanted = ([float(each) for each in NUMBER.findall(of.get(name, ""))] for of in (one, other))
            assert found == pytest.approx(wanted, abs=0.01)
    assert (tmp_path / "saved.svg").stat().st_size < 0.9 * (tmp_path / "plain.svg").stat().st_size
