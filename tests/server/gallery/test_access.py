# SPDX-License-Identifier: Apache-2.0
"""For everybody: axe-core's rules in every state, both themes; names and landmarks; from a phone to a wide screen."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.browser import PAGE
from tests.server.serverkit import RunningServer

from . import chromium
from .conftest import Gallery, submit

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def check_with_axe(page: Any, where: str) -> None:
    """No rule of axe-core is broken; its last word on contrast needs the fonts to be there."""
    pytest.importorskip("axe_playwright_python")
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate("document.fonts.ready")
    answer = Axe().run(page, options={"runOnly": {"type": "tag", "values": RULES}}).response
    assert len(answer["passes"]) > 10, "it has looked"
    found = [
        f"{rule['id']}: {rule['help']}\n    {node['html'][:200]}\n    {node['failureSummary']}"
        for rule in answer["violations"]
        for node in rule["nodes"]
    ]
    assert not found, where + "\n" + "\n".join(found)


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing(
    make_gallery: Callable[..., Gallery],
    slow_server: RunningServer,
    finished: str,
    moving_clip: str,
    idle: None,
    theme: str,
) -> None:
    failed = submit(slow_server, moving_clip, "fails", prompt="bug")
    slow_server.wait(failed)
    running = submit(slow_server, moving_clip, "runs", num_inference_steps=400)
    queued = submit(slow_server, moving_clip, "waits")
    # axe itself needs what the page's policy forbids; the other tests run with the policy.
    gallery = make_gallery(slow_server, color_scheme=theme, bypass_csp=True)
    page = gallery.page
    page.goto(slow_server.handshake["url"])
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector(".login-problem:not(:empty)")
    check_with_axe(page, "login")
    gallery.complaints.allow("status of 401")
    page.goto("about:blank")
    gallery.open()
    gallery.show_video(finished)
    check_with_axe(page, "done")
    for job, selector in (
        (running, ".running img:not([hidden])"),
        (failed, ".state-card.bad"),
        (queued, ".state-card"),
    ):
        gallery.show(job, selector)
        check_with_axe(page, selector)
    for key in ("?", "n"):
        page.keyboard.press(key)
        page.get_by_role("dialog").wait_for()
        check_with_axe(page, key)
        page.keyboard.press("Escape")
    page.set_viewport_size(chromium.PHONE)
    check_with_axe(page, "phone")


def test_names_and_landmarks(gallery: Gallery, finished: str) -> None:
    """What a screen reader gets to hear, from the browser's own accessibility tree."""
    page = gallery.page
    gallery.show_video(finished)
    tree = page.locator("body").aria_snapshot()
    for line in (
        "banner:",
        'heading "HVG-3D" [level=1]',
        'region "Queue and history"',
        'listbox "Jobs"',
        "main:",
        'heading "Shot 1: a hand lifts a mug" [level=2]',
        'group "Actions"',
        'slider "Wipe between original and result"',
        'group "Playback"',
        'slider "Frame"',
        'group "Compare"',
        'button "Wipe" [pressed]',
        'heading "Settings" [level=3]',
    ):
        assert line in tree, f"{line}\n{tree}"
    option = page.locator(f"#job-{finished}").get_attribute("aria-label")
    assert re.fullmatch(r"Shot 1: a hand lifts a mug, Done, seed 3 · .+", option), option
    assert page.get_by_role("slider", name="Wipe").get_attribute("aria-valuetext") == "50 percent original"
    assert page.locator("html").get_attribute("lang") == "en" and page.title() == "HVG-3D"
    assert page.locator("#announcer").get_attribute("aria-live") == "polite"
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4')].filter(h => h.checkVisibility()).map(h => +h.tagName[1])"
    )
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels)), levels


def test_changes_are_announced(gallery: Gallery, moving_clip: str) -> None:
    """Of the job that is being looked at: quarters of its progress, and its end."""
    page = gallery.page
    page.evaluate(
        "() => { window.said = []; new MutationObserver(() => window.said.push(announcer.textContent))"
        ".observe(announcer, {childList: true, characterData: true, subtree: true}) }"
    )
    job = submit(gallery.server, moving_clip, "Shot 8", num_inference_steps=20)
    gallery.show(job)
    page.wait_for_selector(".viewer video", timeout=60_000)
    page.wait_for_function("() => window.said.includes('Shot 8 is done')")
    said = [text for text in page.evaluate("window.said") if text]
    assert any(text.endswith(" percent") for text in said), said
    assert len([text for text in said if text.endswith(" percent")]) <= 4, "not every step"


def test_dark_and_light(make_gallery: Callable[..., Gallery], slow_server: RunningServer, finished: str) -> None:
    """As the system says, until somebody chooses; the choice stays."""
    brightness = "parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    for scheme, dark in (("dark", True), ("light", False)):
        gallery = make_gallery(slow_server, color_scheme=scheme)
        gallery.open()
        page = gallery.page
        assert (page.evaluate(brightness) < 60) is dark
        page.emulate_media(color_scheme="light" if dark else "dark")
        assert (page.evaluate(brightness) < 60) is not dark, "it follows the system"
        page.get_by_role("button", name="Theme").click()
        page.get_by_role("button", name="Theme").click()
        page.get_by_role("button", name="Theme: dark").wait_for()
        assert page.evaluate(brightness) < 60
        page.reload()
        page.wait_for_selector(".head")
        assert page.evaluate(brightness) < 60
        page.get_by_role("button", name="Theme: dark").wait_for()


@pytest.mark.parametrize(
    "width", [320, 1440, *(pytest.param(w, marks=pytest.mark.slow) for w in (390, 768, 1024, 2560))]
)
def test_every_width(
    make_gallery: Callable[..., Gallery], slow_server: RunningServer, finished: str, width: int, tmp_path: Path
) -> None:
    """Nothing sticks out sideways, and everything that can be pressed is large enough for a finger or a mouse."""
    gallery = make_gallery(slow_server, viewport={"width": width, "height": 800})
    gallery.open()
    page = gallery.page
    wide = "document.scrollingElement.scrollWidth - innerWidth"
    assert page.evaluate(wide) <= 0
    list_ = page.locator(".list").bounding_box()
    assert list_["y"] < 100, "right below the bar"
    narrow = width < 832
    if narrow:
        assert list_["width"] == width and not page.locator(".detail").is_visible()
        chromium.keep(page, f"list-{width}", tmp_path)
        gallery.row(finished).click()
        page.wait_for_selector(".viewer video")
        assert not page.locator(".list").is_visible()
    gallery.show_video(finished)
    for mode in ("side", "wipe"):
        page.locator(f"[data-mode={mode}]").first.click()
        page.wait_for_timeout(100)
        assert page.evaluate(wide) <= 0
        stage, detail = page.locator(".stage").bounding_box(), page.locator(".detail").bounding_box()
        assert stage["x"] >= detail["x"] and stage["x"] + stage["width"] <= detail["x"] + detail["width"]
        assert stage["width"] > 0.5 * min(detail["width"], 600)
    chromium.keep(page, f"done-{width}", tmp_path)
    small = page.evaluate(
        "[...document.querySelectorAll('button, a[href]:not(.skip), [role=slider], input')]"
        ".filter(e => e.checkVisibility()).map(e => [e.textContent || e.ariaLabel, e.getBoundingClientRect()])"
        ".filter(([, r]) => r.width < 24 || r.height < 24).map(([name]) => name)"
    )
    assert small == [], "WCAG 2.5.8"
    if narrow:
        page.get_by_role("button", name="All jobs").click()
        page.wait_for_function("() => document.activeElement.getAttribute('role') === 'listbox'")
        gallery.row(finished).click()
        page.wait_for_selector(".viewer")
        page.go_back()
        page.wait_for_function("() => document.querySelector('.list').checkVisibility()")


def test_files_are_as_the_policy_wants_them(server: RunningServer) -> None:
    """Nothing from elsewhere, nothing inline, each file of its own type, and no other file of the server to be had."""
    url = server.handshake["url"]
    names = sorted(path.name for path in PAGE.iterdir())
    assert {"index.html", "main.js", "base.css", "icon.svg"} <= set(names)
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for name in names:
        answer = httpx.get(f"{url}/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == kinds[Path(name).suffix]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        text = answer.text
        assert "SPDX-License-Identifier: Apache-2.0" in text.splitlines()[0]
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
    page = (PAGE / "index.html").read_text("utf-8")
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script>", page)
    assert httpx.get(f"{url}/").text == page
    for path in ("/../browser.py", "/%2e%2e/browser.py", "/..%2fbrowser.py", "/static/../../app.py", "//etc/passwd"):
        assert httpx.get(f"{url}{path}").status_code == 404, path
