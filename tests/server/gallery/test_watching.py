# SPDX-License-Identifier: Apache-2.0
"""What comes by itself: progress, previews, other people's jobs, and all of it again after a break."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.serverkit import RunningServer, tiny_clip

from . import chromium
from .conftest import Gallery, submit


def test_progress_arrives_without_reload(gallery: Gallery, moving_clip: str, tmp_path: Path) -> None:
    """A job that somebody else sends appears, counts up with previews, and ends as a video, on the same page."""
    page = gallery.page
    # Noted in the page, twenty times a second: from outside, a busy machine may be too slow to look.
    page.evaluate(
        """() => {
          window.seen = [];
          setInterval(() => {
            const meter = document.querySelector('.meter'), picture = document.querySelector('.stage.preview img');
            if (meter) window.seen.push({
              percent: Number(meter.getAttribute('aria-valuenow')),
              picture: picture.naturalWidth && !picture.hidden ? picture.currentSrc : '',
              text: document.querySelector('.running-line').innerText,
              row: document.querySelector('[aria-selected=true] .row-state').innerText,
            });
          }, 50);
        }"""
    )
    job = submit(gallery.server, moving_clip, "Shot 2: a hand turns a key", seed=5, num_inference_steps=40)
    gallery.row(job).click()
    page.wait_for_selector(".stage.preview img:not([hidden])")
    chromium.keep(page, "running", tmp_path)
    page.wait_for_selector(".viewer video", timeout=60_000)
    seen = page.evaluate("window.seen")
    percents = [sample["percent"] for sample in seen]
    assert percents == sorted(percents), "progress never goes back"
    assert len(set(percents)) > 6, percents
    assert len({sample["picture"] for sample in seen} - {""}) > 2, "the preview is renewed"
    assert any("Generating" in sample["text"] and "of 40" in sample["text"] for sample in seen), seen[-1]
    assert any(sample["row"] == "Generating" for sample in seen)
    assert page.locator(".badge").inner_text() == "Done"
    gallery.row(job).get_by_text("Done").wait_for()
    assert page.evaluate("window.seen.length") >= len(seen), "it was never reloaded"


def test_a_failed_job_says_what_to_do(gallery: Gallery, moving_clip: str, tmp_path: Path) -> None:
    job = submit(gallery.server, moving_clip, "Shot 3: bug", prompt="bug")
    gallery.server.wait(job)
    gallery.show(job, ".state-card.bad")
    text = gallery.page.locator(".state-card").inner_text()
    error = gallery.server.job(job)["error"]
    assert error["message"] in text and error["remedy"] in text and "flux capacitor" in text
    gallery.page.get_by_text("lines of the worker's log").click()
    assert "flux capacitor" in gallery.page.locator(".log pre").inner_text()
    chromium.keep(gallery.page, "failed", tmp_path)


def test_what_clients_write_is_text(gallery: Gallery, moving_clip: str) -> None:
    """Markup in a label or a prompt is shown, not obeyed."""
    evil = "<img src=x onerror=\"window.broken=1\"><b>'bold'</b>"
    job = submit(gallery.server, moving_clip, evil, prompt=evil + " bug")
    gallery.server.wait(job)
    gallery.show(job, ".state-card.bad")
    assert gallery.page.locator("#detail-title").inner_text() == evil
    assert evil in gallery.page.locator(".facts").inner_text()
    assert gallery.page.evaluate("window.broken") is None
    assert gallery.page.locator("#page b").count() == 0


@pytest.mark.slow
def test_it_comes_back_after_the_server(make_gallery: Callable[..., Gallery], tmp_path: Path) -> None:
    """The server is killed and started again, its events lost meanwhile: the page says so, then has what it missed."""
    with RunningServer(tmp_path / "home", step_seconds=0.05) as server:
        gallery = make_gallery(server)
        gallery.open()
        page = gallery.page
        page.evaluate("window.neverReloaded = true")
        page.get_by_text("Nothing here yet").wait_for()
        chromium.keep(page, "empty", tmp_path)
        port = server.handshake["port"]
        server.kill()
        page.wait_for_selector(".head-link[data-state=lost]")
        assert "Reconnecting" in page.locator(".head-link").inner_text()
        page.context.set_offline(True)
        with sqlite3.connect(tmp_path / "home" / "jobs.sqlite3") as database:
            database.execute("DELETE FROM events")
        server._arguments = ("--port", str(port))
        server.start()
        clip = server.upload(tiny_clip())
        jobs = [submit(server, clip, f"while away {n}", seed=n) for n in range(3)]
        server.wait(jobs[-1])
        page.context.set_offline(False)
        page.wait_for_selector(".head-link[data-state=live]", timeout=40_000)
        for job in jobs:
            gallery.row(job).get_by_text("Done").wait_for()
        later = submit(server, clip, "after it came back")
        gallery.row(later).get_by_text("Done").wait_for()
        assert page.evaluate("window.neverReloaded") is True
        gallery.leave()
        gallery.complaints.allow(
            "ERR_CONNECTION_REFUSED", "ERR_INTERNET_DISCONNECTED", "ERR_INCOMPLETE_CHUNKED", "RESET"
        )


@pytest.mark.slow
def test_a_hundred_thousand_jobs_do_not_hurt(make_gallery: Callable[..., Gallery], tmp_path: Path) -> None:
    """Only what is in view is in the page, however long the history; scrolling brings more."""
    home = tmp_path / "home"
    with RunningServer(home) as server:
        clip = server.upload(tiny_clip())
        pattern = submit(server, clip, "pattern", seed=1)
        server.wait(pattern)
        server.stop()
        with sqlite3.connect(home / "jobs.sqlite3") as database:
            columns = [row[1] for row in database.execute("PRAGMA table_info(jobs)")]
            values = ", ".join(
                {
                    "id": "printf('00000000-0000-4000-8000-%012d', n)",
                    "created": "created - n",
                    "finished": "finished - n",
                    "label": "'old ' || n",
                    "removed": "1.0",
                    "bytes": "NULL",
                }.get(column, column)
                for column in columns
            )
            database.execute(
                "WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < 100000) "
                f"INSERT INTO jobs ({', '.join(columns)}) SELECT {values} FROM jobs, counter WHERE id = '{pattern}'"
            )
        server.start()
        gallery = make_gallery(server)
        gallery.open()
        page = gallery.page
        page.get_by_text("old 1", exact=True).wait_for()
        assert page.locator("[data-job]").count() < 40
        for _ in range(12):
            page.keyboard.press("End")
            page.wait_for_timeout(150)
        page.wait_for_function("() => document.querySelector('.list-rows').style.height.slice(0, -2) > 400 * 76")
        nodes = page.evaluate("document.querySelectorAll('*').length")
        assert page.locator("[data-job]").count() < 40 and nodes < 1500, nodes
        chosen = page.locator("[role=option][aria-selected=true]")
        assert chosen.get_attribute("aria-setsize") == "-1", "nobody knows yet how many there are"
        assert int(chosen.get_attribute("aria-posinset")) > 300
        box, view = chosen.bounding_box(), page.locator(".list-scroll").bounding_box()
        assert view["y"] <= box["y"] and box["y"] + box["height"] <= view["y"] + view["height"] + 1
        took = page.evaluate(
            "async () => { const s = performance.now(); await (await fetch('/v1/jobs?limit=100')).json();"
            " return performance.now() - s }"
        )
        assert took < 2000, took
        gallery.leave()
