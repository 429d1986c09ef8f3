# SPDX-License-Identifier: Apache-2.0
"""The page with a video that the shipped network has made from the shipped clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hvg3d_core
from tests.server.serverkit import RunningServer

from . import chromium
from .conftest import Gallery, submit

CLIP = Path(hvg3d_core.__file__).parent / "cli" / "assets" / "demo.clip.safetensors"
LUMA = """
    ([selector, time]) => new Promise(resolve => {
      const video = document.querySelector(selector), canvas = document.createElement('canvas');
      canvas.width = 48; canvas.height = 32;
      video.addEventListener('seeked', () => setTimeout(() => {
        const context = canvas.getContext('2d');
        context.drawImage(video, 0, 0, 48, 32);
        resolve(Array.from(context.getImageData(0, 0, 48, 32).data).filter((_, i) => i % 4 === 1));
      }, 100), {once: true});
      video.currentTime = time;
    })
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_original_and_result_show_the_same_moment(make_gallery: Callable[..., Gallery], tmp_path: Path) -> None:
    """Laid over each other they agree, and better with the same moment of the other than with its start."""
    with RunningServer(tmp_path / "home", "--backend", "server.backend") as server:
        gallery = make_gallery(server)
        gallery.open()
        job = submit(server, server.upload(CLIP.read_bytes()), "A hand lifts a mug", seed=0)
        gallery.show(job)
        assert server.wait(job, seconds=300)["state"] == "done", server.job(job)["error"]
        page = gallery.page
        page.wait_for_selector(".viewer video", timeout=60_000)
        page.wait_for_function("() => [...document.querySelectorAll('.viewer video')].every(v => v.readyState >= 3)")
        page.wait_for_function("() => document.querySelector('.clock').textContent === '1 / 17'")
        assert "3 (the model's own)" in page.locator(".facts").inner_text(), "the metadata tells what was left open"
        end = page.evaluate("document.querySelector('.of-result video').duration") * 0.97
        late, first = (np.array(page.evaluate(LUMA, [".of-result video", time]), float) for time in (end, 0.01))
        scene = np.array(page.evaluate(LUMA, [".of-scene video", end]), float)
        assert np.corrcoef(scene, late)[0, 1] > 0.7
        assert np.corrcoef(scene, late)[0, 1] > np.corrcoef(scene, first)[0, 1] + 0.05
        chromium.keep(page, "real", tmp_path)
        gallery.leave()
