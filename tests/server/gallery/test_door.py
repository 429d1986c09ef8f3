# SPDX-License-Identifier: Apache-2.0
"""Getting in, and not getting in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.server.serverkit import RunningServer

from . import chromium
from .conftest import Gallery

REFUSED = "Failed to load resource: the server responded with a status of 401"


def watched(gallery: Gallery) -> list[tuple[str, int]]:
    """(path, status) of every answer of the API from now on."""
    answers: list[tuple[str, int]] = []

    def note(response: Any) -> None:
        if "/v1/" in response.url:
            answers.append((response.url.partition("/v1/")[2], response.status))

    gallery.page.on("response", note)
    return answers


def test_a_wrong_token_shows_nothing(
    make_gallery: Callable[..., Gallery], slow_server: RunningServer, finished: str, tmp_path: Path
) -> None:
    """Neither typed nor in a link: no data leaves the server, the page has only the form, and it says why."""
    gallery = make_gallery(slow_server)
    page, answers = gallery.page, watched(gallery)
    url = slow_server.handshake["url"]
    page.goto(url)
    page.get_by_label("Token").fill("not-the-token-at-all")
    page.keyboard.press("Enter")
    alert = page.get_by_role("alert")
    alert.get_by_text("That token is not this server's").wait_for()
    assert page.get_by_label("Token").get_attribute("aria-invalid") == "true"
    assert gallery.focused() == "", "back in the field, to type again"
    assert page.evaluate("document.activeElement.id") == "token"
    chromium.keep(page, "login-wrong", tmp_path)

    page.goto("about:blank")
    page.goto(f"{url}/#token=also-not-the-token")
    alert.get_by_text("That token is not this server's").wait_for()
    assert page.url == f"{url}/", "no token in the address bar, not even a wrong one"

    assert {status for _, status in answers} == {401}, answers
    assert {path for path, _ in answers} == {"session"}
    shown = page.inner_text("body")
    assert "Shot 1" not in shown and finished not in page.content()
    assert page.locator("header, [role=listbox], video, img:not(.logo)").count() == 0
    assert page.context.cookies(f"{url}/v1/jobs") == []
    gallery.complaints.allow(REFUSED)


def test_the_token_opens_it_and_stays_nowhere(
    make_gallery: Callable[..., Gallery], slow_server: RunningServer, finished: str
) -> None:
    gallery = make_gallery(slow_server)
    page, token = gallery.page, slow_server.handshake["token"]
    page.goto(slow_server.handshake["url"])
    page.get_by_label("Token").fill(f"  {token} ")
    page.get_by_role("button", name="Open the gallery").click()
    page.wait_for_selector("[data-job]")
    kept = "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, location.href, history.state])"
    assert token not in page.evaluate(kept) and token not in page.content()
    cookies = page.context.cookies(f"{slow_server.handshake['url']}/v1/jobs")
    assert [cookie["httpOnly"] for cookie in cookies] == [True]
    page.reload()
    page.wait_for_selector("[data-job]")

    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Token").wait_for()
    gallery.complaints.allow("status of 401")  # what was still on its way comes to a closed door
    assert page.locator("[data-job]").count() == 0
    page.wait_for_timeout(200)
    gallery.complaints.allow("status of 401")
    page.reload()
    page.get_by_label("Token").wait_for()
    assert page.context.cookies(f"{slow_server.handshake['url']}/v1/jobs") == []


def test_a_link_works_once(make_gallery: Callable[..., Gallery], slow_server: RunningServer, finished: str) -> None:
    link = slow_server.handshake["url"] + slow_server.client.post("/v1/session/link").json()["path"]
    first, second = make_gallery(slow_server), make_gallery(slow_server)
    first.page.goto(link)
    first.page.wait_for_selector("[data-job]")
    assert "token" not in first.page.url
    assert first.page.evaluate("history.length") == 1 or "token" not in first.page.evaluate("document.referrer")
    second.page.goto(link)
    second.page.get_by_role("alert").get_by_text("A link works once").wait_for()
    assert second.page.locator("[data-job]").count() == 0
    second.complaints.allow(REFUSED)
    first.page.goto("about:blank")
    first.page.goto(link)  # by the one who is in already: no reason to be sent away
    first.page.wait_for_selector("[data-job]")
    first.complaints.allow(REFUSED)


def test_being_signed_out_elsewhere(gallery: Gallery, finished: str) -> None:
    """The next request finds out; nothing stays on the screen."""
    page = gallery.page
    page.wait_for_selector("[data-job]")
    page.context.clear_cookies()
    page.get_by_role("button", name="Queue").click()
    page.get_by_role("alert").get_by_text("You were signed out").wait_for()
    assert page.locator("[data-job], video").count() == 0
    gallery.complaints.allow(REFUSED)
