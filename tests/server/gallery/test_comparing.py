# SPDX-License-Identifier: Apache-2.0
"""Original and result: the same frame of both, in one picture, divided where the wipe is."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvg3d_core.video import read_video
from tests.server.serverkit import RunningServer

from . import chromium
from .conftest import Gallery, submit

FRAMES = 9

DRAWN = """
    selector => {
      const video = document.querySelector(selector), canvas = document.createElement('canvas');
      canvas.width = video.videoWidth; canvas.height = video.videoHeight;
      canvas.getContext('2d').drawImage(video, 0, 0);
      return Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data);
    }
"""


def stage(gallery: Gallery) -> np.ndarray:
    """What is to be seen on the stage, H x W x 3 float, without the captions' strip."""
    picture = Image.open(io.BytesIO(gallery.page.locator(".stage").screenshot())).convert("RGB")
    return np.asarray(picture, float)[: int(picture.height * 0.85)]


def go_to(gallery: Gallery, frame: int) -> None:
    gallery.page.evaluate(
        "frame => { const s = document.querySelector('.scrub'); s.value = frame; s.dispatchEvent(new Event('input')) }",
        frame,
    )
    gallery.page.wait_for_function(
        "() => [...document.querySelectorAll('.viewer video')].every(v => !v.seeking && v.readyState >= 2)"
    )
    gallery.page.wait_for_function(
        "text => document.querySelector('.clock').textContent === text", arg=f"{frame + 1} / {FRAMES}"
    )
    gallery.page.wait_for_timeout(150)  # until the frame is painted


def mode(gallery: Gallery, name: str) -> None:
    gallery.page.get_by_role("group", name="Compare").get_by_role("button", name=name, exact=True).click()
    gallery.page.wait_for_timeout(150)


def test_the_wipe_divides_the_two_pictures(gallery: Gallery, finished: str, tmp_path: Path) -> None:
    """Left of the line the original's pixels, right of it the result's, wherever keyboard or mouse have put it."""
    gallery.show_video(finished)
    page = gallery.page
    go_to(gallery, 4)
    mode(gallery, "Original")
    original = stage(gallery)
    mode(gallery, "Result")
    result = stage(gallery)
    assert np.abs(original - result).mean() > 20, "two different pictures, or this proves nothing"
    mode(gallery, "Wipe")
    handle = page.get_by_role("slider", name="Wipe between original and result")
    width = original.shape[1]

    def check(share: float) -> None:
        assert float(handle.get_attribute("aria-valuenow")) == pytest.approx(100 * share, abs=1.5)
        page.wait_for_timeout(150)
        shown = stage(gallery)
        line, margin = int(width * share), 30  # the handle's own pixels
        left, right = np.s_[:, : max(0, line - margin)], np.s_[:, line + margin :]
        for part, here, other in ((left, original, result), (right, result, original)):
            if shown[part].size:
                near, far = np.abs(shown[part] - here[part]).mean(), np.abs(shown[part] - other[part]).mean()
                assert near < 2 and far > 15, (share, near, far)

    check(0.5)
    handle.focus()
    for key, share in (("End", 1.0), ("Home", 0.0), ("PageUp", 0.1), ("ArrowRight", 0.12), ("Shift+ArrowRight", 0.22)):
        page.keyboard.press(key)
        check(share)
    box = page.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + 0.22 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 3, steps=4)
    page.mouse.up()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 10)
    check(0.75)
    chromium.keep(page, "wipe", tmp_path)


def test_each_frame_is_the_files_own(gallery: Gallery, finished: str, tmp_path: Path) -> None:
    """Sought or stepped to, both show the frame of that number, as decoded from the files by another decoder."""
    gallery.show_video(finished)
    page, files = gallery.page, {}
    for name, selector in (("video.mp4", ".of-result video"), ("scene.mp4", ".of-scene video")):
        (tmp_path / name).write_bytes(gallery.server.client.get(f"/v1/jobs/{finished}/{name}").content)
        files[selector] = read_video(tmp_path / name)[0].astype(float)
        assert len(files[selector]) == FRAMES

    def check(frame: int) -> None:
        for selector, frames in files.items():
            height, width = frames.shape[1:3]
            drawn = np.array(page.evaluate(DRAWN, selector), float).reshape(height, width, 4)[..., :3]
            distance = np.abs(frames - drawn).mean((1, 2, 3))
            assert distance[frame] == distance.min() and distance[frame] < 12, (selector, frame, distance.round(1))

    for frame in (4, 0, 8):
        go_to(gallery, frame)
        check(frame)
    for name, frame in (("Next frame", 0), ("Next frame", 1), ("Previous frame", 0), ("Previous frame", 8)):
        page.get_by_role("button", name=name).click()
        page.wait_for_function(
            "text => document.querySelector('.clock').textContent === text", arg=f"{frame + 1} / {FRAMES}"
        )
        page.wait_for_function("() => [...document.querySelectorAll('.viewer video')].every(v => !v.seeking)")
        page.wait_for_timeout(150)
        check(frame)


def test_they_play_in_step(gallery: Gallery, finished: str) -> None:
    """Over several rounds of the loop they are never further apart than a frame, though one of them is disturbed."""
    gallery.show_video(finished)
    page = gallery.page
    page.get_by_role("button", name="Play", exact=True).click()
    samples = page.evaluate(
        """async () => {
          const [scene, result] = ['.of-scene video', '.of-result video'].map(s => document.querySelector(s));
          const samples = [], end = performance.now() + 4000;
          let disturbed = false;
          while (performance.now() < end) {
            await new Promise(requestAnimationFrame);
            if (!disturbed && performance.now() > end - 2000) {
              scene.currentTime = result.currentTime / 2;
              disturbed = true;
            }
            samples.push([result.currentTime, scene.currentTime, scene.seeking || result.seeking]);
          }
          return samples;
        }"""
    )
    page.get_by_role("button", name="Pause").click()
    assert page.evaluate("[...document.querySelectorAll('.viewer video')].map(v => v.paused)") == [True, True]
    times = np.array([sample[0] for sample in samples])
    rounds = (np.diff(times) < -0.5).sum()
    assert rounds >= 2, f"it plays and starts again by itself: {rounds} rounds in 4 s of a video of 1.1 s"
    duration = FRAMES / 8
    settled = [sample for sample in samples if not sample[2] and 0.3 < sample[0] < duration - 0.2]
    apart = np.array([abs(sample[0] - sample[1]) for sample in settled])
    assert len(apart) > 20
    assert np.quantile(apart, 0.9) < 1 / 8, np.quantile(apart, [0.5, 0.9, 1.0])
    last = page.evaluate("[...document.querySelectorAll('.viewer video')].map(v => v.currentTime)")
    assert abs(last[0] - last[1]) < 0.02, "a pause shows the same moment of both"


def test_side_by_side_and_alone(gallery: Gallery, finished: str, tmp_path: Path) -> None:
    gallery.show_video(finished)
    go_to(gallery, 2)
    page = gallery.page
    mode(gallery, "Side by side")
    left, right = (page.locator(f".of-{name} video").bounding_box() for name in ("scene", "result"))
    assert left["x"] + left["width"] <= right["x"] + 1
    assert left["width"] == pytest.approx(right["width"], abs=1) and left["y"] == right["y"]
    assert left["width"] / left["height"] == pytest.approx(64 / 48, rel=0.03)
    chromium.keep(page, "side", tmp_path)
    mode(gallery, "Result")
    assert page.locator(".of-result video").is_visible() and not page.locator(".of-scene video").is_visible()
    page.reload()
    gallery.show_video(finished)
    assert page.locator(".modes [aria-pressed=true]").inner_text() == "Result", "the choice is remembered"


def test_without_an_original(gallery: Gallery, slow_server: RunningServer, finished: str) -> None:
    """A result of before scenes were kept is shown alone, and the page says why."""
    job = submit(slow_server, slow_server.job(finished)["request"]["clip"], "Shot 4: no scene", seed=8)
    slow_server.wait(job)
    (slow_server.home / "jobs" / job / "result" / "scene.mp4").unlink()
    gallery.show(job, ".viewer")
    gallery.page.get_by_text("Nothing of the original was kept").wait_for()
    buttons = gallery.page.get_by_role("group", name="Compare").get_by_role("button")
    assert [button.is_enabled() for button in buttons.all()] == [False, False, True, False]
    gallery.page.get_by_role("button", name="Play", exact=True).click()
    gallery.page.wait_for_function("() => document.querySelector('.of-result video').currentTime > 0.3")
    gallery.complaints.allow("status of 404")
    assert slow_server.client.delete(f"/v1/jobs/{job}").status_code == 204


def test_motion_only_where_it_is_wanted(
    make_gallery: Callable[..., Gallery], slow_server: RunningServer, finished: str
) -> None:
    """With reduced motion nothing moves by itself, neither video nor page; otherwise the video plays at once."""
    for preference, playing in (("no-preference", True), ("reduce", False)):
        gallery = make_gallery(slow_server, reduced_motion=preference)
        gallery.open()
        gallery.show_video(finished)
        if playing:
            gallery.page.wait_for_function("() => document.querySelector('.of-result video').currentTime > 0.1")
        else:
            gallery.page.wait_for_timeout(500)
        assert gallery.page.evaluate("!document.querySelector('.of-result video').paused") is playing
        moving = gallery.page.evaluate(
            "[...document.querySelectorAll('*')].filter(e => getComputedStyle(e).transitionDuration.split(', ')"
            ".some(d => parseFloat(d) > 0)).length"
        )
        assert (moving > 0) is playing
