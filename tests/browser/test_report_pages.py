"""The report in a real browser: it works, it is silent, and everybody can use it.

Where there is no Chromium, the tests say so and are skipped; in continuous integration they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from builders import a_data_bound_run
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from report_samples import PROFILES, SPIKE_ROW, figures_in, write_reports

from stepscope.advisor import report

NAMES = [*PROFILES, "judged", "hostile"]
Open = Callable[..., Page]
EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")  # not longer: its event loop would be in the way of other tests
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, EXECUTABLES)), None)
    if executable is None:
        message = f"needs one of {', '.join(EXECUTABLES)} on PATH, e.g. `apt-get install chromium`"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    # As root, which a container often is, Chromium's own sandbox does not start.
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A written report for each sample, by name."""
    return {path.stem: path for path in write_reports(tmp_path_factory.mktemp("reports"))}


@pytest.fixture
def opened(browser: Browser, reports: dict[str, Path]) -> Iterator[Open]:
    """Opens a report; afterwards nothing may have been logged, thrown, or asked of a network."""
    contexts: list[BrowserContext] = []
    heard: list[str] = []

    def open_report(name: str, width: int = 1280, **options: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
        address = reports[name].as_uri()
        page.on("request", lambda r: None if r.url == address else heard.append(r.url))
        page.goto(address)
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html.ready")
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert heard == []


@pytest.mark.parametrize("name", NAMES)
def test_every_report_is_drawn_and_as_wide_as_the_screen(
    name: str, opened: Open, reports: dict[str, Path]
) -> None:
    page = opened(name, width=360)

    drawn = page.locator("figure.enhanced canvas").count()
    figures = figures_in(reports[name].read_text("utf-8")).values()
    assert drawn == sum(figure["kind"] != "heat" for figure in figures)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("name", ["judged", "hostile", "gpus", "epochs", "ranks"])
def test_everybody_can_use_it(name: str, opened: Open) -> None:
    page = opened(name, width=360)
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    page.evaluate("new Promise((done) => setTimeout(done, 50))")  # for the events of opening

    assert violations(page) == []


@pytest.mark.parametrize("name", ["typical", "many_workers", "ranks"])
def test_also_dark_and_wide(name: str, opened: Open) -> None:
    page = opened(name, width=3840, color_scheme="dark")

    assert page.evaluate("document.documentElement.scrollWidth") == 3840
    assert violations(page) == []


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:120]}" for each in found for node in each["nodes"]]


def test_hovering_tells_numbers_with_units(opened: Open) -> None:
    page = opened("typical")
    figure = page.locator("figure[data-figure=step-time]")
    figure.scroll_into_view_if_needed()

    figure.locator(".u-over").hover()

    assert "each step 4" in figure.locator(".readout").inner_text()
    assert " ms" in figure.locator(".readout").inner_text()
    page.locator("svg.bar rect").first.hover()
    assert "preparing" in page.locator(".tip").inner_text()


def test_one_slow_step_of_a_million_stays_visible(opened: Open) -> None:
    page = opened("million")

    painted = page.evaluate(
        """(first) => {
          const u = document.querySelector('[data-figure=step-time]').chart;
          const [x, y] = [u.valToPos(first, 'x', true), u.valToPos(0.6, 'y', true)];
          const { data } = u.ctx.getImageData(Math.round(x) - 2, Math.round(y) - 2, 5, 5);
          const pixels = Array.from({ length: 25 }, (_, i) => data.slice(4 * i, 4 * i + 3));
          return pixels.some(([red, green, blue]) => red > 150 && green < 160 && blue < 110);
        }""",
        20 + 244 * SPIKE_ROW,
    )
    assert painted is True  # in the orange of the longest steps


def test_the_heat_map_is_read_by_pointer_and_by_keys(opened: Open) -> None:
    page = opened("ranks")
    figure = page.locator("figure[data-heat]")
    cells, readout = figure.locator(".heat-map"), figure.locator(".readout")
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    assert box is not None

    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.6 * box["height"])
    slow = readout.inner_text()
    cells.focus()
    page.keyboard.press("ArrowUp")

    assert slow.startswith("Rank 2, step 10")
    assert " ms" in slow
    assert readout.inner_text().startswith("Rank 1, step 10")


def test_zooming_by_drag_button_and_key(opened: Open) -> None:
    page = opened("typical")
    figure = page.locator("figure[data-figure=step-time]")
    figure.scroll_into_view_if_needed()

    def shown(name: str = "step-time") -> tuple[float, float]:
        low, high = page.evaluate(
            f"""(() => {{ const {{ min, max }} = document.querySelector('[data-figure={name}]')
                .chart.scales.x; return [min, max]; }})()"""
        )
        return low, high

    box = figure.locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 50, steps=4)
    page.mouse.up()
    assert shown() == pytest.approx((55, 165), abs=2)
    assert shown("phases") == pytest.approx(shown())
    figure.get_by_role("button", name="Zoom in").click()
    assert shown() == pytest.approx((82.5, 137.5), abs=2)
    figure.locator(".live").press("ArrowRight")
    assert figure.locator(".readout").inner_text().startswith("Step ")
    figure.locator(".live").press("0")
    assert shown() == pytest.approx((0, 220))


def test_the_code_is_copied(opened: Open) -> None:
    page = opened("typical", permissions=["clipboard-read", "clipboard-write"])
    code = page.locator("pre").first.inner_text()

    page.get_by_role("button", name="Copy").first.click()

    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == code


def test_links_open_what_they_lead_to(opened: Open) -> None:
    page = opened("typical")
    fix = page.locator("details", has_text="Run forward in bfloat16 autocast").first
    fix.evaluate("(details) => { details.open = false; }")

    page.locator(".ladder a", has_text="bfloat16").click()

    assert fix.evaluate("(details) => details.open") is True


def test_without_script_nothing_is_missing(opened: Open) -> None:
    page = opened("many_workers", java_script_enabled=False)

    for static in ("svg.plot", ".lanes", ".spark", ".ladder", "table"):
        assert page.locator(static).first.is_visible()
    assert page.locator(".live").count() == 0
    page.locator("summary", has_text="Step time as a table").click()
    assert page.get_by_text("20 to 28").is_visible()


def test_paper_shows_the_static_pictures_and_all_details(opened: Open) -> None:
    page = opened("typical", color_scheme="dark")

    page.emulate_media(media="print")

    assert page.locator(".live").first.is_hidden()
    assert page.locator("figure[data-figure=step-time] > svg").is_visible()
    assert page.evaluate("getComputedStyle(document.body.parentNode).color") == "rgb(0, 0, 0)"


def test_charts_follow_the_colour_scheme_and_the_width(opened: Open) -> None:
    page = opened("typical")
    canvas = page.locator("figure[data-figure=step-time] canvas")
    before = canvas.evaluate("(canvas) => canvas.toDataURL()")

    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 500, "height": 800})

    page.wait_for_function(
        "document.querySelector('[data-figure=step-time] canvas').clientWidth < 480"
    )
    assert canvas.evaluate("(canvas) => canvas.toDataURL()") != before
    assert canvas.count() == 1


def test_in_a_notebook_it_works_inside_its_frame(browser: Browser) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        heard: list[str] = []
        page.on("console", lambda message: heard.append(message.text))
        page.set_content("<h1>Notebook</h1>" + report(a_data_bound_run())._repr_html_())
        frame = page.frame_locator("iframe")
        frame.locator("html.ready").wait_for(state="attached")

        frame.get_by_role("link", name="Findings", exact=True).click()

        frame.locator("#findings").wait_for()
        assert page.url == "about:blank"
        assert page.locator("h1").inner_text() == "Notebook"
        assert frame.locator("#findings").evaluate("(e) => e.getBoundingClientRect().top") < 100
        frame.get_by_role("button", name="Copy").first.click()
        frame.get_by_role("button", name="Copied").wait_for()
        assert heard == []
