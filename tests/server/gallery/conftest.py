# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.server.serverkit import RunningServer, tiny_clip

from . import chromium


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder that takes a browser is marked, and skipped with the reason where there is none."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "launched" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
            if reason := chromium.unavailable():
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="package")
def launched() -> Iterator[Any]:
    """Only as long as these tests run: meanwhile Playwright keeps an event loop running in this thread."""
    with chromium.browser() as browser:
        yield browser


class Gallery:
    """The page in a browser of its own profile, signed in, and the server behind it."""

    def __init__(self, page: Any, complaints: chromium.Complaints, server: RunningServer) -> None:
        self.page, self.complaints, self.server = page, complaints, server

    def open(self, path: str = "") -> None:
        """By the kind of link that the server prints. ``path`` is then shown, such as ``#/job/ID``."""
        link = self.server.client.post("/v1/session/link").json()["path"]
        self.page.goto(self.server.handshake["url"] + link)
        self.page.wait_for_selector(".head-link[data-state=live]")
        if path:
            self.page.evaluate("path => { location.hash = path }", path)

    def show(self, job: str, wait_for: str = "#detail-title") -> None:
        self.page.evaluate("path => { location.hash = path }", f"#/job/{job}")
        self.page.wait_for_function("id => location.hash.endsWith(id)", arg=job)
        self.page.wait_for_selector(f"[data-job='{job}'][aria-selected=true]", state="attached")
        self.page.wait_for_selector(wait_for)

    def show_video(self, job: str) -> None:
        """A finished job, with both of its videos ready to be sought in."""
        self.show(job, ".viewer")
        self.page.wait_for_function(
            "() => { const all = [...document.querySelectorAll('.viewer video')];"
            " return all.length === 2 && all.every(v => v.readyState >= 3 && v.getAttribute('src')) }"
        )
        self.page.wait_for_function("() => document.querySelector('.clock').textContent.endsWith('/ 9')")

    def leave(self) -> None:
        """Before the server goes: an event stream that breaks off is a complaint."""
        self.page.goto("about:blank")

    def row(self, job: str) -> Any:
        return self.page.locator(f"[data-job='{job}']")

    def focused(self) -> str:
        """The accessible name, or failing that the text, of what has the focus."""
        return self.page.evaluate(
            "() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
        )


def submit(server: RunningServer, clip: str, label: str, **fields: Any) -> str:
    job = str(uuid.uuid4())
    body = {"id": job, "label": label, "client": "test", "request": {"clip": clip, **fields}}
    answer = server.client.post("/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return job


@pytest.fixture(scope="package")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("home"), step_seconds=0.15) as server:
        yield server


@pytest.fixture(scope="package")
def moving_clip(slow_server: RunningServer) -> str:
    """A clip with masks, so that its scene is a picture with things in it."""
    return slow_server.upload(tiny_clip(seed=7))


@pytest.fixture(scope="package")
def finished(slow_server: RunningServer, moving_clip: str) -> str:
    """A finished job."""
    job = submit(slow_server, moving_clip, "Shot 1: a hand lifts a mug", seed=3)
    assert slow_server.wait(job)["state"] == "done"
    return job


@pytest.fixture
def idle(slow_server: RunningServer) -> Iterator[None]:
    """Leave no work for the next test."""
    yield
    unfinished = "/v1/jobs?limit=1000&state=queued&state=running&state=cancelling"
    for view in slow_server.get(unfinished)["jobs"]:
        slow_server.client.post(f"/v1/jobs/{view['id']}/cancel")
    end = time.monotonic() + 20
    while slow_server.get(unfinished)["jobs"]:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def make_gallery(launched: Any) -> Iterator[Callable[..., Gallery]]:
    """``make_gallery(server, **options of the browser's context)``. At the end nobody must have complained."""
    made: list[Gallery] = []
    with ExitStack() as stack:

        def make(server: RunningServer, **options: Any) -> Gallery:
            page, complaints = stack.enter_context(chromium.page_of(launched, **options))
            made.append(Gallery(page, complaints, server))
            return made[-1]

        yield make
        for gallery in made:
            gallery.page.wait_for_timeout(50)  # messages on their way
    for gallery in made:
        assert gallery.complaints == []


@pytest.fixture
def gallery(make_gallery: Callable[..., Gallery], slow_server: RunningServer, finished: str, idle: None) -> Gallery:
    made = make_gallery(slow_server)
    made.open()
    return made
