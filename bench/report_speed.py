"""How long the report takes to write and to appear, and how large it is: medians of several runs.

    python bench/report_speed.py [PROFILE]

Without PROFILE, one of 1,000,000 steps with workers and events is made up. First paint is what
Chromium tells (Performance API), from a file, each time in a new browser context.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from stepscope.advisor import Report, report
from stepscope.profiler.storage import load

TESTS = Path(__file__).parents[1] / "tests"
RUNS = 9
PAINT = """() => Math.max(...performance.getEntriesByType("paint").map((e) => e.startTime))"""


def written_ms(found: Report) -> list[float]:
    """Processor times of writing the page; the first includes compiling the templates."""
    times = []
    for _ in range(RUNS + 1):
        begin = time.process_time()
        found.html.encode()
        times.append(1e3 * (time.process_time() - begin))
    return times


def painted_ms(browser: Browser, address: str) -> float:
    """First contentful paint of one opening."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("html.ready")
        return float(page.evaluate(PAINT))


def main() -> None:
    if len(sys.argv) > 1:
        profile = load(Path(sys.argv[1]))
    else:
        sys.path += [str(TESTS), str(TESTS / "browser")]
        from report_samples import a_million_steps, many_workers  # noqa: PLC0415

        profile = a_million_steps()
        profile.loaders = [many_workers()]
    found = report(profile)
    first, *others = written_ms(found)
    print(f"steps               {profile.steady.total:10,}")
    print(f"written, cold       {first:7.0f} ms")
    print(f"written, again      {statistics.median(others):7.0f} ms")
    print(f"size                {len(found.html.encode()) / 1e6:10.2f} MB")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder, "report.html")
        path.write_text(found.html, "utf-8")
        executable = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        times = [painted_ms(browser, path.as_uri()) for _ in range(RUNS)]
        print(f"first paint         {statistics.median(times):7.0f} ms (largest {max(times):.0f})")
        browser.close()


if __name__ == "__main__":
    main()
