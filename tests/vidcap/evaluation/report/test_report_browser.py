"""The report in a real browser: it sorts, filters and plays, loads nothing, and is readable on a phone."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from tests.vidcap.evaluation.report.test_report import HISTORY, REPORT
from vidcap.evaluation.report.clip_pictures import ReportExample
from vidcap.evaluation.report.report import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install -e '.[dev]'")
DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    not (DRIVER and BROWSER), reason="needs a browser: apt-get install chromium chromium-driver (make browser)"
)
PHONE = 360  # pixels


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    frames = np.zeros((8, 40, 60, 3), np.uint8)
    frames[1::2] = 255
    long = "a very " + "very " * 70 + "long caption"
    captions = {"b.gif": ("a dog runs", 30.0), "a10.gif": (long, 0.0), "a9.gif": ("a cat 🐈 schläft", 200.5)}
    examples = [
        ReportExample(
            name, frames, caption, [caption if score > 100 else "a cow"], score > 100, score=score, seconds=1.6,
            controls={"reversed": "a zebra" if name == "b.gif" else "x" * 300},
        )
        for name, (caption, score) in captions.items()
    ]  # fmt: skip
    confused = {"mistakes": 1, "right": 3, "pairs": [{"truth": "red", "caption": "w" * 80, "count": 1}]}
    numbers = {"count": 3, "probability": 0.7, "without_video": 0.2, "fall": 0.5}
    report = {
        **REPORT,
        "controls": {
            name: {**values, "gap": {"cider": [100.0, 90.0, 110.0]}} for name, values in REPORT["controls"].items()
        },
        "errors": {
            "confusions": {"colours": confused},
            "groups": {"duration": {"1 to 2 s": {"clips": 3, "cider": 9.0}}},
        },
        "grounding": {"words": {"incomprehensibilities" * 3: numbers}},
        "model": "/a/very/long/path" * 10,
    }
    write_report(folder, report, examples=examples, history=HISTORY)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # chromium refuses to run as root with it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page: Path):
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())
    return browser


def shown(browser) -> list[str]:
    names = (
        "return [...document.querySelectorAll('#cards > figure')].filter(e => e.offsetParent).map(e => e.dataset.name)"
    )
    return browser.execute_script(names)


def find(browser, selector: str):
    return browser.find_element("css selector", selector)


def requested(browser) -> list[str]:
    """Addresses that the page asked for, beside itself and what lies within it."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith("file:") for url in urls), "nothing was logged"
    return [url for url in urls if not url.startswith("data:") and url != browser.current_url]


def test_it_sorts_filters_and_plays_without_error_or_network(opened) -> None:
    assert shown(opened) == ["a10.gif", "b.gif", "a9.gif"]  # lowest score first
    choices = {
        "score-down": ["a9.gif", "b.gif", "a10.gif"],
        "length-up": ["b.gif", "a9.gif", "a10.gif"],
        "length-down": ["a10.gif", "a9.gif", "b.gif"],
        "name": ["a9.gif", "a10.gif", "b.gif"],
    }
    for value, names in choices.items():
        find(opened, f"#order option[value={value}]").click()
        assert shown(opened) == names, value
    find(opened, "#wrong").click()
    assert shown(opened) == ["a10.gif", "b.gif"] and find(opened, "#shown").text == "2 of 3 shown"
    find(opened, "#search").send_keys("ZEBRA")  # in a caption under a control
    assert shown(opened) == ["b.gif"]
    find(opened, "#search").clear()
    find(opened, "#wrong").click()
    assert len(shown(opened)) == 3

    picture, button = find(opened, "figure[data-name='b.gif'] img"), find(opened, "figure[data-name='b.gif'] button")
    strip = picture.get_attribute("src")
    button.click()
    assert picture.get_attribute("src").startswith("data:image/webp")
    seen: set[bytes] = set()
    deadline = time.monotonic() + 10
    while len(seen) < 2 and time.monotonic() < deadline:
        seen.add(picture.screenshot_as_png)
    assert len(seen) > 1, "the animation stands still"
    button.click()
    assert picture.get_attribute("src") == strip

    assert opened.get_log("browser") == []
    assert requested(opened) == []


def test_the_policy_keeps_other_scripts_and_addresses_out(opened) -> None:
    opened.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.intruded = true';"
        "document.body.append(s);"
        "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}));"
        "fetch('http://127.0.0.1:9/y').catch(() => 0)"
    )
    time.sleep(0.3)
    assert opened.execute_script("return window.intruded") is None
    errors = [entry["message"] for entry in opened.get_log("browser") if "Content Security Policy" in entry["message"]]
    for refused in ("inline script", "127.0.0.1:9/x.png", "127.0.0.1:9/y"):
        assert any(refused in error for error in errors), (refused, errors)


def test_a_phone_scrolls_it_downwards_only_and_dark_mode_is_dark(browser, page: Path) -> None:
    size = {"width": PHONE, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(page.as_uri())
        width = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert width == [PHONE, PHONE]
        small = browser.execute_script(
            "return [...document.querySelectorAll('p, td, dd, figcaption')].filter(e => e.offsetParent)"
            ".filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).length"
        )
        assert small == 0
        colours = []
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert colours == ["rgb(246, 248, 250)", "rgb(13, 17, 23)"]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
