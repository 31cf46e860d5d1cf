"""The page in a real browser with a camera that is none: a whole scenario, and its looks on a desk and a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import SIZES, VIEWS, chromium

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from servers import BUDGET, METHOD, client_of, listening, make_server

KEY = "a-key-of-many-characters"
WAIT = 120_000  # milliseconds
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")

OUTSIDE = """() => [...document.querySelectorAll('body *:not(.film *):not(.hidden)')].filter(e => {
    const r = e.getBoundingClientRect();
    return r.width && (r.left < -0.5 || r.right > document.documentElement.clientWidth + 0.5);
}).map(e => e.outerHTML.slice(0, 120))"""

DARKEST = """selector => {
    const canvas = document.querySelector(selector);
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const rows = [...Array(4).keys()].map(row => Math.floor((row + .5) * canvas.height / 4));
    return Math.min(...rows.flatMap(y => [...Array(4).keys()].map(column => {
        const at = 4 * (y * canvas.width + Math.floor((column + .5) * canvas.width / 4));
        return data[at] + data[at + 1] + data[at + 2];
    })));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(*CAMERA) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(bundled: Any) -> Iterator[str]:
    with listening(make_server(bundled)) as url:
        yield url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The page on a desk; requests to anywhere else and console messages fail the test."""
    with _opened(browser, url, "desktop", "light") as opened:
        yield opened


class _opened:
    def __init__(self, browser: Any, url: str, size: str, scheme: str) -> None:
        width, height = SIZES[size]
        self.url, self.fetched, self.said = url, [], []
        self.page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page.set_default_timeout(WAIT)
        self.page.on("request", lambda asked: self.fetched.append(asked.url))
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def _note(self, message: Any) -> None:
        """Note what the console says, but for requests that the server refused: the page tells of those itself."""
        refused = message.text.startswith("Failed to load resource: the server responded with a status of 40")
        if not (refused and "/v1/sessions" in message.location["url"]):
            self.said.append(f"{message.text} {message.location['url']}")

    def __enter__(self) -> Any:
        self.page.goto(self.url)
        self.page.wait_for_selector(".pane")
        return self.page

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.page.close()
        if kind is None:
            assert [url for url in self.fetched if not url.startswith((self.url, "blob:", "data:"))] == []
            assert self.said == []


def frames(page: Any, least: int) -> None:
    """Wait until the memory curve of every pane has reached so many frames."""
    page.wait_for_function(
        "least => Number(document.querySelector('#state').textContent.match(/(\\d+) frames/)?.[1] ?? 0) >= least",
        arg=least,
    )


def of(page: Any, place: int, selector: str) -> Any:
    return page.locator(".pane").nth(place).locator(selector)


def test_a_whole_scenario(page: Any) -> None:
    """Camera, a question, a second session beside the first, another method and budget, and a question to both."""
    page.click("#camera")
    frames(page, 8)
    page.wait_for_function("() => document.querySelectorAll('.pane .film canvas').length >= 3")
    page.fill("#question", "What was the first shape to flash?")
    page.click("#ask button")
    page.wait_for_selector(".answered:not(.busy)")
    assert of(page, 0, ".answered.bad").count() == 0
    assert of(page, 0, ".answered").text_content().strip()

    page.click("#compare")
    page.wait_for_selector("#panes.two")
    page.wait_for_function("() => document.querySelectorAll('.pane .size')[1].textContent")
    of(page, 1, ".method").select_option("recent")
    of(page, 1, ".budget").fill("32")
    of(page, 1, ".budget").press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.pane .count')[1].textContent.startsWith('32 of ')")
    page.fill("#question", "Where was the heart?")
    page.press("#question", "Enter")
    page.wait_for_function("() => document.querySelectorAll('.answered:not(.busy)').length >= 3")
    assert of(page, 0, ".asked").count() == 2
    assert of(page, 1, ".asked").count() == 1

    of(page, 1, ".budget").fill("half")
    of(page, 1, ".budget").press("Enter")
    page.wait_for_selector(".note.bad")
    assert "budget" in of(page, 1, ".note.bad").text_content().lower()
    before = page.text_content("#state")
    page.wait_for_function("before => document.querySelector('#state').textContent !== before", arg=before)

    of(page, 1, ".remove").click()
    assert page.locator(".pane").count() == 1
    frames(page, 40)
    page.wait_for_function(
        "document.querySelectorAll('.pane .size')[0].textContent.includes('less than a stock cache')"
    )
    assert f"{BUDGET} of" in of(page, 0, ".count").text_content()
    page.click("#stop")
    assert "stopped after" in page.text_content("#state")


@pytest.mark.slow
def test_memory_stays_flat_and_what_left_is_dark(page: Any, tmp_path: Path) -> None:
    """A file that is pushed whole: the last points of the curve are level, a stock cache's are not."""
    from kvpress_video.benchmarks.world import make_clip

    clip = make_clip(tmp_path / "clip.mp4", 24)
    page.set_input_files("#file", clip.path)
    page.wait_for_function("() => document.querySelector('#state').textContent.includes('all ')")
    path = of(page, 0, ".memory .held").get_attribute("d")
    heights = [float(point.split(",")[1]) for point in path.removeprefix("M").split(" L")]
    stock = of(page, 0, ".memory .stock").get_attribute("d").removeprefix("M").split(" L")
    assert len(heights) > 8
    assert max(heights[-8:]) - min(heights[-8:]) < 2.5
    assert float(stock[-8].split(",")[1]) - float(stock[-1].split(",")[1]) > 10
    assert page.evaluate(DARKEST, ".film canvas:first-child") < 150  # on a white ground
    assert of(page, 0, ".origin rect").count() > 8


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_cut_off(browser: Any, url: str, view: tuple[str, str]) -> None:
    with _opened(browser, url, *view) as page:
        page.click("#camera")
        frames(page, 4)
        page.click("#compare")
        page.wait_for_function("() => document.querySelectorAll('.pane .clock')[1].textContent")
        assert page.evaluate(OUTSIDE) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("#question").is_visible()


def test_a_key_is_asked_for(browser: Any, bundled: Any) -> None:
    with listening(make_server(bundled, keys=(KEY,))) as url:
        page = browser.new_page()
        page.set_default_timeout(WAIT)
        page.goto(url)
        page.wait_for_selector("#access:not([hidden])")
        page.fill("#key", KEY)
        page.click("#access button")
        page.wait_for_selector(".pane")
        page.close()


def test_what_the_page_reads(bundled: Any) -> None:
    """Without a browser: the page's files need no key and name no other host, and kept patches add up."""
    with client_of(make_server(bundled, keys=(KEY,))) as client:
        html = client.get("/")
        assert html.headers["content-security-policy"].startswith("default-src 'self'")
        files = [part.split('"')[0] for part in html.text.split('="/page/')[1:]]
        for name in (*files, "api.js", "pane.js", "draw.js"):
            answer = client.get(f"/page/{name}")
            assert answer.status_code == 200
            assert "https://" not in answer.text
        assert client.get("/v1/methods").status_code == 401
        for name in ("..%2fapp.py", "page_api.py", ""):
            assert client.get(f"/page/{name}").status_code == 404
        client.headers["authorization"] = f"Bearer {KEY}"
        offered = client.get("/v1/methods").json()
        names = [method["name"] for method in offered["data"]]
        assert METHOD in names
        assert "full" not in names
        assert (offered["method"], offered["budget"]) == (METHOD, BUDGET)
        assert json.dumps(offered)
