# SPDX-License-Identifier: Apache-2.0
"""What can be done with a job, done with the mouse and, in one journey, with the keyboard alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.server.serverkit import RunningServer

from . import chromium
from .conftest import Gallery, submit


def newest(server: RunningServer) -> dict[str, Any]:
    return server.get("/v1/jobs?limit=1")["jobs"][0]


def test_cancel(gallery: Gallery, moving_clip: str) -> None:
    """A running and a queued one; the buttons that made sense before are gone, and the focus is not lost with them."""
    server, page = gallery.server, gallery.page
    running = submit(server, moving_clip, "runs", num_inference_steps=300)
    queued = submit(server, moving_clip, "waits", seed=2)
    server.wait(running, "running")
    for job in (queued, running):
        gallery.show(job)
        page.get_by_role("button", name="Cancel", exact=True).focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(".badge[data-state=cancelled]")
        assert server.wait(job)["state"] == "cancelled"
        assert page.get_by_role("button", name="Cancel", exact=True).count() == 0
        assert page.evaluate("document.activeElement.id") == "detail-title"
        gallery.row(job).get_by_text("Cancelled").wait_for()


def test_re_roll_is_the_same_with_another_seed(gallery: Gallery, finished: str, moving_clip: str) -> None:
    server, page = gallery.server, gallery.page
    fields = {"prompt": "as before", "negative_prompt": "blur", "control_scale": 0.5, "use_points": False}
    job = submit(server, moving_clip, "Shot 5", seed=99, num_inference_steps=3, **fields)
    server.wait(job)
    gallery.show(job)
    page.get_by_role("button", name="Re-roll").click()
    message = page.get_by_role("status").filter(has_text="New take queued")
    message.wait_for()
    made = newest(server)
    assert made["id"] != job and made["label"] == "Shot 5" and made["client"] == "test"
    before = server.job(job)["request"]
    assert made["request"]["seed"] != before["seed"]
    assert {**made["request"], "seed": 99} == before
    message.get_by_role("button", name="Show").click()
    page.wait_for_function("id => location.hash.endsWith(id)", arg=made["id"])
    server.wait(made["id"])
    page.wait_for_selector(".viewer video")
    # And back, by the strip of takes.
    page.locator(f"[data-take='{job}']").click()
    page.wait_for_function("id => location.hash.endsWith(id)", arg=job)
    assert "Seed 99" in page.locator(".detail-sub").inner_text()


def test_a_new_take_with_other_settings(gallery: Gallery, finished: str, tmp_path: Path) -> None:
    server, page = gallery.server, gallery.page
    gallery.show(finished)
    before = len(server.get("/v1/jobs?limit=1000")["jobs"])
    page.get_by_role("button", name="New take").click()
    dialog = page.get_by_role("dialog", name="New take")
    dialog.wait_for()
    chromium.keep(page, "take", tmp_path)
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert len(server.get("/v1/jobs?limit=1000")["jobs"]) == before, "nothing is sent by looking"
    page.get_by_role("button", name="New take").click()
    dialog.get_by_label("Prompt").fill("in the rain")
    dialog.get_by_label("Seed", exact=True).fill("1234")
    dialog.get_by_label("Steps").fill("5")
    dialog.get_by_label("Control strength").fill("11")
    dialog.get_by_role("button", name="Add to queue").click()
    assert dialog.is_visible(), "more than the server takes is refused where it is typed"
    dialog.get_by_label("Control strength").fill("0.75")
    dialog.get_by_role("button", name="Add to queue").click()
    page.get_by_text("New take queued, seed 1234").wait_for()
    wanted = {"prompt": "in the rain", "seed": 1234, "num_inference_steps": 5, "control_scale": 0.75}
    made = newest(server)["request"]
    assert {name: made[name] for name in wanted} == wanted
    same = {name: value for name, value in server.job(finished)["request"].items() if name not in wanted}
    assert {name: made[name] for name in same} == same


def test_moving_in_the_queue(gallery: Gallery, moving_clip: str, tmp_path: Path) -> None:
    server, page = gallery.server, gallery.page
    submit(server, moving_clip, "runs", num_inference_steps=300)
    jobs = [submit(server, moving_clip, f"waits {n}", seed=n) for n in range(4)]

    def order() -> list[str]:
        waiting = server.get("/v1/jobs?state=queued")["jobs"]
        return [view["id"] for view in sorted(waiting, key=lambda view: view["queue_position"])]

    assert order() == jobs
    page.get_by_role("group", name="Show").get_by_role("button", name="Queue").click()
    gallery.row(jobs[3]).click()
    for name, expected in (
        ("Move up", [0, 1, 3, 2]),
        ("Move to the front", [3, 0, 1, 2]),
        ("Move down", [0, 3, 1, 2]),
    ):
        page.get_by_role("button", name=name).click()
        place = expected.index(3)
        text = "Next in line" if place == 0 else f"{place + 1} in line"
        page.locator(".state-card").get_by_text(text).wait_for()
        assert order() == [jobs[n] for n in expected]
        # The list follows, too, though the others' places come without an event.
        page.wait_for_function(
            "ids => { const y = id => document.getElementById('job-' + id).getBoundingClientRect().top;"
            " return ids.every((id, n) => n === 0 || y(ids[n - 1]) < y(id)) }",
            arg=order(),
        )
    chromium.keep(page, "queue", tmp_path)


def test_delete_asks_first(gallery: Gallery, moving_clip: str, tmp_path: Path) -> None:
    server, page = gallery.server, gallery.page
    job, other = (submit(server, moving_clip, f"Shot {n}", seed=n) for n in (6, 7))
    server.wait(other)
    folder = server.home / "jobs" / job
    assert (folder / "result" / "video.mp4").exists()
    gallery.show(job)
    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete this result?")
    dialog.get_by_role("button", name="Keep").click()
    dialog.wait_for(state="detached")
    assert folder.exists() and gallery.focused() == "Delete", "the focus is back where it was"
    page.get_by_role("button", name="Delete").click()
    chromium.keep(page, "delete", tmp_path)
    dialog.get_by_role("button", name="Delete").click()
    gallery.row(job).wait_for(state="detached")
    assert not folder.exists()
    assert server.client.get(f"/v1/jobs/{job}").status_code == 404
    assert gallery.focused() == "Jobs"
    # Deleted by somebody else: it goes here, too.
    gallery.show(other)
    assert server.client.delete(f"/v1/jobs/{other}").status_code == 204
    gallery.row(other).wait_for(state="detached")
    page.get_by_text("No job chosen").wait_for()


def test_download(gallery: Gallery, finished: str) -> None:
    gallery.show(finished)
    names = {"Video": ("video.mp4", "Shot-1-a-hand-lifts-a-mug-seed3.mp4"), "Metadata": ("metadata.json", None)}
    for button, (name, called) in names.items():
        with gallery.page.expect_download() as download:
            gallery.page.get_by_role("link", name=button, exact=True).click()
        content = Path(download.value.path()).read_bytes()
        assert content == gallery.server.client.get(f"/v1/jobs/{finished}/{name}").content
        assert called is None or download.value.suggested_filename == called
    assert json.loads(content)["seed"] == 3


def test_by_keyboard_alone(
    make_gallery: Callable[..., Gallery],
    slow_server: RunningServer,
    finished: str,
    moving_clip: str,
    idle: None,
    tmp_path: Path,
) -> None:
    """From the door to a deleted result without a mouse, and every key does what the help says."""
    gallery = make_gallery(slow_server)
    page, server, press = gallery.page, slow_server, gallery.page.keyboard.press
    jobs = [submit(server, moving_clip, f"Key {n}", seed=n) for n in range(3)]
    server.wait(jobs[-1])
    page.goto(server.handshake["url"])
    page.wait_for_function("() => document.activeElement.id === 'token'")
    page.keyboard.type(server.handshake["token"])
    press("Enter")
    page.wait_for_function("() => document.activeElement.getAttribute('role') === 'listbox'")

    def chosen() -> str:
        box = page.locator("[role=listbox]")
        page.wait_for_function("() => document.querySelectorAll('[role=option][aria-selected=true]').length === 1")
        active = box.get_attribute("aria-activedescendant")
        assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
        return active.removeprefix("job-")

    def choose(key: str, job: str) -> None:
        press(key)
        page.wait_for_function("id => location.hash.endsWith(id)", arg=job)
        assert chosen() == job

    page.wait_for_function("id => location.hash.endsWith(id)", arg=jobs[2])
    choose("ArrowDown", jobs[1])
    choose("j", jobs[0])
    choose("k", jobs[1])
    choose("Home", jobs[2])
    press("Enter")
    page.wait_for_function("() => document.activeElement.id === 'detail-title'")
    gallery.show_video(jobs[2])

    press("w")
    page.wait_for_function("() => document.activeElement.getAttribute('role') === 'slider'")
    press("ArrowLeft")
    press("ArrowLeft")
    assert page.evaluate("document.activeElement.getAttribute('aria-valuenow')") == "46"
    assert page.evaluate("document.activeElement.matches(':focus-visible')"), "and one can see where one is"
    press("Space")
    page.wait_for_function("() => !document.querySelector('.of-result video').paused")
    press("Space")
    page.wait_for_function("() => document.querySelector('.of-result video').paused")
    clock = page.locator(".clock")
    frame = int(clock.inner_text().split(" / ")[0])
    press(".")
    page.wait_for_function("f => document.querySelector('.clock').textContent.startsWith(f + ' /')", arg=frame % 9 + 1)
    press(",")
    page.wait_for_function("f => document.querySelector('.clock').textContent.startsWith(f + ' /')", arg=frame)
    for key, mode in (("s", "side"), ("v", "result"), ("o", "original"), ("w", "wipe")):
        press(key)
        assert page.locator(".stage").get_attribute("data-mode") == mode

    press("?")
    help_ = page.get_by_role("dialog", name="Keyboard")
    help_.wait_for()
    chromium.keep(page, "keys", tmp_path)
    press("s")
    assert page.locator(".stage").get_attribute("data-mode") == "wipe", "not while a dialog is open"
    press("Escape")
    help_.wait_for(state="detached")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider", "back where it was"

    press("r")
    page.get_by_text("New take queued").wait_for()
    again = newest(server)["id"]
    assert again not in jobs
    server.wait(again)
    press("l")
    page.wait_for_function("() => document.activeElement.getAttribute('role') === 'listbox'")
    choose("Home", again)
    gallery.show_video(again)
    press("Delete")
    dialog = page.get_by_role("dialog", name="Delete this result?")
    dialog.wait_for()
    while gallery.focused() != "Delete":
        press("Tab")
    press("Enter")
    gallery.row(again).wait_for(state="detached")
    assert chosen() == jobs[2], "its neighbour is chosen instead"
    assert server.client.get(f"/v1/jobs/{again}").status_code == 404

    long = submit(server, moving_clip, "Key long", num_inference_steps=300)
    server.wait(long, "running")
    page.wait_for_selector(f"[data-job='{long}']")
    choose("Home", long)
    press("x")
    assert server.wait(long)["state"] == "cancelled"


def test_shortcuts_can_be_switched_off(gallery: Gallery, finished: str) -> None:
    """Whoever speaks to the computer instead of typing must not trigger them by a word (WCAG 2.1.4)."""
    page = gallery.page
    gallery.show_video(finished)
    page.get_by_role("button", name="Keyboard shortcuts").click()
    page.get_by_label("Single-key shortcuts").uncheck()
    page.get_by_role("button", name="Close", exact=True).click()
    page.keyboard.press("s")
    assert page.locator(".stage").get_attribute("data-mode") == "wipe"
    page.reload()
    gallery.show_video(finished)
    page.keyboard.press("s")
    assert page.locator(".stage").get_attribute("data-mode") == "wipe", "and stay so"
    page.get_by_role("listbox").focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_function("id => !location.hash.endsWith(id)", arg=finished)
