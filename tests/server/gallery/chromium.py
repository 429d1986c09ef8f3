# SPDX-License-Identifier: Apache-2.0
"""A real Chromium, the system's own, driven through Playwright; what it complains about fails the test."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


@cache
def find() -> str | None:
    """The browser's program: ``HVG3D_CHROMIUM``, or one of the usual names."""
    given = os.environ.get("HVG3D_CHROMIUM")
    return given or next((path for name in NAMES if (path := shutil.which(name))), None)


@cache
def unavailable() -> str:
    """Why this machine cannot do it; empty if it can."""
    if importlib.util.find_spec("playwright") is None:
        return "needs the Python package playwright"
    program = find()
    if program is None:
        return "needs Chromium: install the package chromium, or set HVG3D_CHROMIUM to its program"
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    return "" if answer.returncode == 0 else f"{program} does not start: {answer.stderr.strip()[-200:]}"


class Complaints(list[str]):
    """What the browser had to complain about: console errors, exceptions, refused content, failed requests."""

    def allow(self, *parts: str) -> None:
        """Forget what is expected here."""
        self[:] = [text for text in self if not any(part in text for part in parts)]


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--autoplay-policy=no-user-gesture-required", "--disable-dev-shm-usage"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            arguments.append("--no-sandbox")  # which root cannot have
        launched = playwright.chromium.launch(executable_path=find(), headless=True, args=arguments)
        try:
            yield launched
        finally:
            launched.close()


@contextmanager
def page_of(browser: Any, **options: Any) -> Iterator[tuple[Any, Complaints]]:
    """A page of its own profile, and what it complains about."""
    context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
    complaints = Complaints()
    page = context.new_page()
    page.set_default_timeout(20_000)

    def note(message: Any) -> None:
        # The preview of a job that ends this very moment is gone when it is asked for: no fault of the page.
        late = "status of 409" in message.text and "/preview.jpg" in message.location["url"]
        if message.type == "error" and not late:
            complaints.append(f"console: {message.text} {message.location['url']}")

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
    # A violation of the policy is told to the page, whether or not it also reaches the console.
    page.add_init_script(
        "addEventListener('securitypolicyviolation', e => console.error("
        "`policy: ${e.violatedDirective} ${e.blockedURI} ${e.sample}`))"
    )
    try:
        yield page, complaints
    finally:
        context.close()


def keep(page: Any, name: str, folder: Path) -> Path:
    """A picture of the page, also into ``HVG3D_GALLERY_PICTURES`` where that is set."""
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    if kept := os.environ.get("HVG3D_GALLERY_PICTURES"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, kept)
    return path
