"""The report in a real browser: nothing cut off, nothing too small, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import SIZES, VIEWS, chromium
from summary_rows import against, overlay, sweep, unmeasured

from kvpress_video.report import write_report
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.records import Failure

METHODS = ["random", "uniform", "recent", "sink-window", "key-norm", "snapkv", "tar", "van", "infinipot-v", "standby"]
METHODS += ["average-pooling", "memory-bank", "streammem", "hermes", "detachable:window=0.5", "novelty"]
WINNER = "standby-novelty"
SCROLLING = ".scroll, .table"

OPEN_ALL = "document.querySelectorAll('details').forEach(d => { d.removeAttribute('name'); d.open = true; })"

OUTSIDE = """scrolling => [...document.querySelectorAll('body *')].filter(e => {
    const box = e.parentElement.closest(scrolling), r = e.getBoundingClientRect();
    return !box && r.width && (r.left < -0.5 || r.right > document.documentElement.clientWidth + 0.5);
}).map(e => e.outerHTML.slice(0, 120))"""

CLIPPED = """scrolling => [...document.querySelectorAll('body *:not(svg *)')].filter(e =>
    !e.matches(scrolling) && !e.matches('html, body, svg')
    && getComputedStyle(e).display !== 'inline' && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0
).map(e => e.outerHTML.slice(0, 120))"""

CUT_OFF = """() => [...document.querySelectorAll('figure svg')].flatMap(svg => {
    const s = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter(t => {
        const r = t.getBoundingClientRect();
        return r.left < s.left - 2 || r.right > s.right + 2 || r.top < s.top - 2 || r.bottom > s.bottom + 2;
    }).map(t => t.textContent);
})"""

SMALL = """least => [...document.querySelectorAll('body *')].filter(e =>
    [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && !e.closest('style, script')
).map(e => {
    const scale = e.ownerSVGElement ? e.ownerSVGElement.getScreenCTM().a : 1;
    return [parseFloat(getComputedStyle(e).fontSize) * scale, e.textContent.trim().slice(0, 40)];
}).filter(([size]) => size < least)"""

COLLIDING = """selector => [...document.querySelectorAll(selector)].flatMap(parent => {
    const parts = [...parent.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    return parts.flatMap(([a, r], i) => parts.slice(i + 1).filter(([b, s]) =>
        Math.min(r.right, s.right) - Math.max(r.left, s.left) > 2
        && Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 0.3 * Math.min(r.height, s.height)
    ).map(([b]) => [a, b]));
})"""

OVERLAPPING = """selector => {
    const boxes = [...document.querySelectorAll(selector)].map(e => e.getBoundingClientRect());
    return boxes.flatMap((r, i) => boxes.slice(i + 1).filter(s =>
        r.left < s.right - 0.5 && s.left < r.right - 0.5 && r.top < s.bottom - 0.5 && s.top < r.bottom - 0.5)).length;
}"""

EMPTY = """() => [...document.querySelectorAll('figure svg')].filter(e => {
    const r = e.getBoundingClientRect(); return r.width < 200 || r.height < 80;
}).length"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of 17 methods, four budgets and two groups, with all that a page may hold."""
    lines = [*sweep([*METHODS, WINNER]), unmeasured("detachable:window=0.5", "1%", error="BudgetError: too small")]
    long = "BudgetError: " + "a window of one frame needs 16 entries and 5 are allowed; " * 4
    return write_report(
        tmp_path_factory.mktemp("report"),
        lines,
        title="A sweep of all methods",
        facts={"versions": {"torch": "2.6", "transformers": "5.1"}, "revision": "0123456789abcdef" * 3},
        failures=[Failure(Cell("detachable:window=0.5", "1%", model="/a/long/" + "path/" * 20), "clip-1.mp4", long)],
        overlays=[overlay(("tar", "van", "infinipot-v:tar_ratio=0.25"), frames=32, shown=8)],
        against_best=against(WINNER, lines),
    )


@pytest.fixture(params=VIEWS)
def page(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The report, opened; requests and console messages fail the test."""
    size, scheme = request.param
    width, height = SIZES[size]
    opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    fetched: list[str] = []
    said: list[str] = []
    opened.on("request", lambda asked: fetched.append(asked.url))
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(report.as_uri())
    yield opened
    opened.close()
    assert [url for url in fetched if not url.startswith("data:")] == [report.as_uri()]
    assert said == []


def test_nothing_is_cut_off_and_nothing_is_too_small(page: Any) -> None:
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(OUTSIDE, SCROLLING) == []
    assert page.evaluate(CLIPPED, SCROLLING) == []
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(EMPTY) == 0
    assert page.evaluate(SMALL, 9.0) == []
    assert page.evaluate(OVERLAPPING, ".card") == 0
    assert page.evaluate(OVERLAPPING, "figure, .table, .legend, .lead, h1, h2, h3, .note") == 0
    assert page.evaluate(COLLIDING, "figure svg") == []


def test_the_winner_near_a_tenth_is_seen_at_once(page: Any) -> None:
    height = page.viewport_size["height"]
    lead = page.locator("p.lead")
    assert lead.get_attribute("data-budget") == "12.5%"
    winner = lead.locator(".method").first
    assert winner.inner_text() == WINNER
    assert winner.bounding_box()["y"] + winner.bounding_box()["height"] < height
    if page.viewport_size["width"] > 600:
        in_card = page.locator(".card.near .winner .method").last
        assert in_card.inner_text() == WINNER
        assert in_card.bounding_box()["y"] + in_card.bounding_box()["height"] < height


def test_text_stands_out_from_its_background(page: Any) -> None:
    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    pairs = {".lead": "body", ".sub": "body", ".card .group": ".card", ".pill.clear": ".pill.clear",
             "td.failed": ".table", "figure svg text": "figure"}  # fmt: skip
    for text, back in pairs.items():
        style = "([e, what]) => getComputedStyle(document.querySelector(e))[what]"
        colour = page.evaluate(style, [text, "fill" if "svg" in text else "color"])
        lights = sorted((light(colour), light(page.evaluate(style, [back, "backgroundColor"]))))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) > 4.5, text


def test_a_method_can_be_seen_alone(page: Any) -> None:
    """In the legend, by pointing or tapping."""
    shown = f"figure [data-method='{WINNER}']"
    other = "figure [data-method='tar']"
    opacity = "e => getComputedStyle(document.querySelector(e)).opacity"
    assert page.evaluate(opacity, other) == "1"
    page.click(f".legend button[data-name='{WINNER}']")
    assert (page.evaluate(opacity, shown), page.evaluate(opacity, other)) == ("1", "0.1")
    page.click(f".legend button[data-name='{WINNER}']")
    page.mouse.move(0, 0)
    assert page.evaluate(opacity, other) == "1"


def test_columns_sort_by_number(page: Any) -> None:
    """The highest first, then the lowest."""
    table = page.locator(".table").nth(1)
    for highest_first in (True, False):
        table.locator("th", has_text="overall").click()
        cells = table.locator("tbody tr td:nth-child(4)")
        values = [float(value) for value in cells.evaluate_all("cells => cells.map(cell => cell.dataset.value)")]
        assert values == sorted(values, reverse=highest_first)
        assert len(set(values)) > 20
