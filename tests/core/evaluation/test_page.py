# SPDX-License-Identifier: Apache-2.0
"""The page in a real Chromium, opened from disk: tables, one clock for all videos, sorting, subsets, light and dark."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hvg3d_core.evaluation.evaluate import evaluate
from hvg3d_core.evaluation.page import write_sheet
from tests.server.gallery import chromium

from .test_evaluate import FRAMES, data, plan, read_frames  # noqa: F401


def test_a_sheet_holds_every_frame_in_its_place(tmp_path):
    frames = np.stack([np.full((20, 30, 3), 14 * t, np.uint8) for t in range(17)])
    said = write_sheet(frames, "a/b", "clip", tmp_path)
    sheet = np.array(Image.open(tmp_path / said["path"]).convert("RGB")).astype(int)
    for t in range(17):
        x, y = t % said["columns"] * 30, t // said["columns"] * 20
        assert abs(sheet[y + 4 : y + 16, x + 4 : x + 26] - 14 * t).max() <= 3


@pytest.mark.browser
def test_the_page_opens_from_disk_and_shows_what_it_is_told(data, tmp_path):  # noqa: F811
    if reason := chromium.unavailable():
        pytest.skip(reason)
    hostile = "</script><b>far"
    results = evaluate(plan(data, tmp_path, videos=(f"near={data / 'near'}", f"far={data / 'far'}")))
    page_file = tmp_path / "index.html"
    assert "http" not in page_file.read_text(encoding="utf-8").lower()
    text = page_file.read_text(encoding="utf-8")
    page_file.write_text(text.replace('"far"', json.dumps(hostile).replace("<", "\\u003c")), encoding="utf-8")
    with chromium.browser() as browser, chromium.page_of(browser, color_scheme="dark") as (page, complaints):
        page.goto(page_file.as_uri())
        assert page.locator("html").get_attribute("data-theme") == "dark"
        page.click("#theme")
        assert page.locator("html").get_attribute("data-theme") == "light"
        mean = results.mean("near", "psnr.frame")
        assert mean is not None
        row = page.locator("#table tbody tr", has_text="near").inner_text()
        assert f"{mean.mean:.2f}" in row
        assert page.locator("#table th", has_text=hostile).count() == 1, "a name is shown, not run"

        page.get_by_role("button", name="PSNR").click()
        order = page.locator("#table tbody th").all_inner_texts()
        assert order == ["near", hostile, "repeat"] or order[0] == "near"

        page.select_option("#subset", "odd")
        assert page.locator("#clips h3").all_inner_texts() == ["0001", "0003"]
        page.select_option("#metric", "psnr.frame")
        page.select_option("#method", "near")
        page.check("#worst")
        values = [
            float(c.split("\n")[-1])
            for c in page.locator(".clip").locator("figure:has-text('near') figcaption").all_inner_texts()
        ]
        assert values == sorted(values)

        page.locator("#scrub").fill("9")
        canvas = page.locator("figure", has_text="truth").locator("canvas").first
        canvas.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        clip = page.locator("#clips h3").first.inner_text()
        pictures = canvas.screenshot(path=tmp_path / "canvas.png") and Image.open(tmp_path / "canvas.png")
        seen = np.array(pictures.convert("RGB").resize((96, 64), Image.Resampling.BILINEAR)).astype(float)
        truth = read_frames(data / "clips" / f"{clip}.png").astype(float)
        errors = [abs(seen - frame)[8:-8, 8:-8].mean() for frame in truth]
        assert int(np.argmin(errors)) in (8, 9, 10), "frame 9 is shown (neighbours hardly differ)"

        page.keyboard.press("Escape")
        page.click("#play")
        page.wait_for_function("document.getElementById('scrub').value != '9'")
        page.click("#play")
        page.check("#strips")
        assert page.locator("canvas").first.evaluate("c => c.width") == 6 * 96
        assert complaints == []
        assert FRAMES == 17
