"""Reports in a headless Chromium: no script, no network, no sideways scrolling, readable contrast, the keyboard.

Screenshots of every page are kept in the folder that the environment variable ``DISTILL_SCREENSHOTS`` names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import program
from report_facts import compared, full_facts

from distill.reporting.formats import html

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS, SCHEMES = (400, 1600), ("light", "dark")
# Text of 24 px, or bold of 18.7 px, needs a contrast of 3, other text 4.5 (WCAG 2.2, success criterion 1.4.3).
LARGE, LARGE_BOLD, LEAST, LEAST_LARGE = 24, 18.66, 4.5, 3.0

# Of every text that is shown: its colour, the colours behind it from the element outwards, size, weight and words.
TEXTS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const words = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!words || !element.checkVisibility() || element.closest('title, desc, .vh')) continue;
    const style = getComputedStyle(element), behind = [];
    for (let e = element; e; e = e.parentElement) behind.push(getComputedStyle(e).backgroundColor);
    const colour = element.closest('svg') ? style.fill : style.color;
    found.push([colour, behind, parseFloat(style.fontSize), Number(style.fontWeight), words.slice(0, 40)]);
  }
  return found;
}"""
# Everything that reaches beyond the page to the right, other than what scrolls in its own box.
OVERFLOW = """() => [...document.querySelectorAll('body *')].filter(e =>
  !e.closest('.vh, .skip') && !e.parentElement.closest('.scroll, pre') &&
  e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"""
UNNAMED = """() => [...document.querySelectorAll('img, svg')].filter(e => {
  if (e.closest('[aria-hidden=true]')) return false;
  if (e.tagName === 'IMG') return !e.alt.trim();
  const ids = (e.getAttribute('aria-labelledby') || '').split(' ').filter(Boolean);
  return e.getAttribute('role') !== 'img' || !ids.length ||
    !ids.every(id => (document.getElementById(id)?.textContent || '').trim());
}).map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window and without a network."""
    path = program("chromium", "chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["one", "compared"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which everything occurs: on one run, or on three."""
    runs = [full_facts()] if request.param == "one" else compared(3)
    path = tmp_path_factory.mktemp("pages") / f"{request.param}.html"
    path.write_text(html.write(runs), encoding="utf-8")
    return path


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids=lambda p: f"{p[0]}-{p[1]}")
def page(request: pytest.FixtureRequest, browser: Browser, file: Path, tmp_path: Path) -> Iterator[Page]:
    """The report, at a width and in a colour scheme; fails if it wrote to the console or asked for anything else."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    said, asked = list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    yield page
    folder = Path(os.environ.get("DISTILL_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"report-{file.stem}-{width}-{scheme}.png", full_page=True)
    page.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]


def luminance(colour: tuple[float, ...]) -> float:
    """The relative luminance of an sRGB colour with channels from 0 to 255, by WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The contrast ratio of two colours, from 1 to 21, by WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def parsed(colour: str) -> tuple[float, ...]:
    """The red, green, blue and alpha of a computed colour, "rgb(1, 2, 3)" or "rgba(1, 2, 3, 0.5)"."""
    values = tuple(float(part) for part in colour[colour.index("(") + 1 : -1].split(","))
    return (*values[:3], values[3] if len(values) > 3 else 1.0)


def test_the_contrast_of_known_colours() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((118, 118, 118), (255, 255, 255)) == pytest.approx(4.54, abs=0.01)  # the lightest grey that passes


def test_a_report_fits_the_page_and_can_be_read(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]  # type: ignore[index]
    assert page.evaluate(OVERFLOW) == []
    assert page.evaluate(UNNAMED) == []
    assert page.locator("svg.plot").count() >= 6 and page.locator("figure.plot > details table").count() >= 6
    texts: list[Any] = page.evaluate(TEXTS)
    assert len(texts) > 200
    for colour, behind, size, weight, words in texts:
        ink = parsed(colour)
        ground = next(ground for ground in map(parsed, behind) if ground[3] == 1)
        needed = LEAST_LARGE if size >= LARGE or (size >= LARGE_BOLD and weight >= 700) else LEAST
        assert ink[3] == 1 and contrast(ink[:3], ground[:3]) >= needed, (words, colour, ground)


def test_the_scheme_of_the_reader_is_followed(page: Page) -> None:
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    ground = parsed(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (luminance(ground[:3]) < 0.1) == dark


def test_the_keyboard_reaches_everything(page: Page) -> None:
    """Tab goes through links, tables and details in their order; Enter skips to the content and opens details."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    expected = page.evaluate("""() => [...document.querySelectorAll('main .scroll, main summary')]
        .filter(e => e.checkVisibility()).map(e => e.tagName)""")
    found, opened = [], False
    for _ in expected:
        page.keyboard.press("Tab")
        found.append(page.evaluate("document.activeElement.tagName"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
    assert found == expected and expected.count("SUMMARY") >= 7
    page.keyboard.press("Enter")
    opened = page.evaluate("document.activeElement.parentElement.open")
    assert opened, "the last one is the recipe"


def test_links_lead_to_sections_without_a_script(page: Page) -> None:
    links = page.locator("nav a")
    assert links.count() == 7
    links.last.click()
    assert page.url.endswith("#origin") and page.locator("#origin").is_visible()
    assert page.locator("script").count() == 0
    names = page.locator("nav a").all_inner_texts()
    assert names == page.locator("main h2").all_inner_texts()
