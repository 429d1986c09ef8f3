# SPDX-License-Identifier: GPL-3.0-or-later
"""As a person would: install the zip, mark with the mouse, cancel, render, see the video, in a window of Blender 5.2.

Run with ``pytest -m window``. Pictures of every state are left in ``HVG3D_WINDOW_PICTURES`` if that is set.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blender_addon import build_extension

from .screen import Screen, unavailable

pytestmark = [
    pytest.mark.window,
    pytest.mark.timeout(1500),  # the first set-up downloads Blender
    pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "-"),
    pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="needs the bpy wheel to make the scene"),
]

# Where things are in a 1600 x 1000 window of Blender 5.2 as it is when new.
TAB = (1308, 330)
MARK_RIGHT_HAND = (1162, 149)
MARK_OBJECT = (1242, 149)
RENDER = (1173, 691)
CANCEL = (1272, 744)
GUESS = (1113, 169)
SHOW_POINTS = (1066, 577)  # once there are two guesses
OPEN_OVERLAY = (1140, 577)
CHECK_ALL_FRAMES = (1175, 635)
VIEWPORT = (400, 700)


class Session:
    def __init__(self, folder: Path, screen: Screen) -> None:
        self.folder, self.screen = folder, screen
        self.pictures = 0

    def status(self) -> dict[str, Any]:
        path = self.folder / "status.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def until(self, what: str, condition: Callable[[dict[str, Any]], Any], seconds: float = 180) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while True:
            status = self.status()
            if status and condition(status):
                return status
            if time.monotonic() > end or not self.screen.running():
                self.picture("failed")
                raise AssertionError(f"{what}: {status}\n{self.screen.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def press(self, position: tuple[int, int], what: str, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Click until something comes of it: on a busy machine software OpenGL is too slow for the first click."""
        for _ in range(4):
            self.screen.click(*position)
            end = time.monotonic() + 6
            while time.monotonic() < end:
                if condition(self.status()):
                    return self.status()
                time.sleep(0.1)
        return self.until(what, condition, 0)

    def select(self, *names: str) -> None:
        (self.folder / "select.part").write_text("\n".join(names))
        (self.folder / "select.part").rename(self.folder / "select")
        self.until(
            f"select {names}", lambda s: s["selected"] == sorted(names) and not (self.folder / "select").exists()
        )

    def tell(self, what: str, value: str = "") -> None:
        """Something that inside.py does instead of the mouse."""
        (self.folder / f"{what}.part").write_text(value)
        (self.folder / f"{what}.part").rename(self.folder / what)
        self.until(what, lambda _: not (self.folder / what).exists())

    def picture(self, name: str) -> Path:
        self.pictures += 1
        path = self.screen.picture(self.folder / f"{self.pictures}-{name}.png")
        if keep := os.environ.get("HVG3D_WINDOW_PICTURES"):
            Path(keep).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, keep)
        return path


@pytest.fixture
def session(tmp_path):
    """A new user's Blender with the zip installed, the demo scene without marks, and a server."""
    from tests.server.serverkit import RunningServer

    try:
        Screen(tmp_path).set_up()
    except RuntimeError as error:
        pytest.skip(f"Blender 5.2 could not be installed from Debian: {error}")
    (tmp_path / "user").mkdir()
    package = build_extension.build(tmp_path)
    make_scene = (
        "import bpy, blender_addon; from blender_addon.demo.scene import build_demo_scene; blender_addon.register();"
        "bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=False);"
        "[bpy.data.objects.remove(o) for o in list(bpy.data.objects)]; build_demo_scene();"
        "scene = bpy.context.scene; scene.hvg3d.width, scene.hvg3d.height, scene.frame_end = 192, 128, 17;"
        f"bpy.ops.wm.save_as_mainfile(filepath={str(tmp_path / 'grasp.blend')!r}); import os; os._exit(0)"
    )
    root = Path(build_extension.ROOT)
    subprocess.run([sys.executable, "-c", make_scene], cwd=root, check=True, capture_output=True)
    shutil.copy(Path(__file__).with_name("inside.py"), tmp_path)
    with RunningServer(tmp_path / "home", step_seconds=4.0), Screen(tmp_path) as screen:
        screen.command("--command", "extension", "install-file", "-r", "user_default", "-e", f"/project/{package.name}")
        screen.start("/project/grasp.blend", "--python", "/project/inside.py")
        yield Session(tmp_path, screen)


def test_a_person_marks_renders_cancels_and_sees_the_video(session):
    status = session.until("window", lambda s: s["server"] == "ready", 120)
    assert status["version"].startswith("5.2")
    time.sleep(2)
    session.screen.click(*TAB)
    time.sleep(3)
    session.picture("nothing-marked")
    session.select("Right hand rig")
    hand = ["right hand", "right_hand", ["Right hand rig"]]
    session.press(MARK_RIGHT_HAND, "hand", lambda s: s["entities"] == [hand])
    session.select("Mug")
    session.press(MARK_OBJECT, "object", lambda s: s["entities"] == [hand, ["Mug", "object", ["Mug"]]])
    time.sleep(1)
    session.picture("ready")

    session.press(RENDER, "export", lambda s: s["exporting"])
    session.picture("reading-the-scene")
    session.screen.key("Escape")
    status = session.until("cancelled export", lambda s: not s["exporting"], 20)
    assert not status["rendering"]
    assert status["frame"] == 1

    session.press(RENDER, "export", lambda s: s["exporting"] or s["rendering"])
    session.until("generation", lambda s: s["phase"] == "Generating")
    session.picture("generating")
    session.press(CANCEL, "cancelled job", lambda s: s["outcome"] == "cancelled")
    assert session.status()["image"] is None

    session.press(RENDER, "export", lambda s: s["exporting"] or s["rendering"])
    status = session.until("video", lambda s: s["outcome"] == "done")
    status = session.until("image", lambda s: s["image"], 10)
    time.sleep(1.5)
    session.picture("video")
    assert status["image"] == {"source": "MOVIE", "frames": 9, "refresh": True}
    assert status["frame"] == 1
    assert len(list((session.folder / "hvg3d").glob("*.mp4"))) == 1
    assert "Traceback" not in session.screen.log.read_text()


def test_a_person_guesses_and_sees_the_contact(session):
    """Guess, undone and done again; points over the scene; all frames checked; contact in colour and as a graph."""
    session.until("window", lambda s: s["server"] == "ready", 120)
    time.sleep(2)
    session.screen.click(*TAB)
    time.sleep(3)
    marks = [["right hand", "right_hand", ["Right hand rig"]], ["Mug", "object", ["Mug"]]]
    session.press(GUESS, "guess", lambda s: s["entities"] == marks)
    session.screen.click(*VIEWPORT)
    session.screen.key("ctrl+z")
    time.sleep(1)
    session.screen.key("ctrl+z")  # the first one took back the click
    session.until("undo", lambda s: s["entities"] == [], 20)
    session.press(GUESS, "guess", lambda s: s["entities"] == marks)
    session.tell("through-camera")
    session.picture("guessed")

    session.press(SHOW_POINTS, "points", lambda s: s["overlay"] and s["sampled"])
    session.until("first frame", lambda s: s["overlay"] == "More than 3 cm away", 20)
    session.screen.click(*OPEN_OVERLAY)
    time.sleep(2)
    before = session.picture("points")
    session.press(CHECK_ALL_FRAMES, "all frames", lambda s: s["sampled"] == 17)
    assert session.status()["frame"] == 1
    session.tell("frame", "17")
    session.until("contact", lambda s: s["overlay"].startswith("Touching"), 20)
    assert session.status()["sampled"] == 17  # known already: nothing was sampled again
    time.sleep(1.5)
    after = session.picture("contact")
    # Yellow is contact: none of it before the hand has come, a patch of it now, and bars in the timeline.
    viewport, timeline = (250, 200, 1000, 850), (0, 930, 400, 975)
    assert yellow(before, viewport) < 20 < 150 < yellow(after, viewport)
    assert yellow(after, timeline) > 20 > yellow(before, timeline)
    session.screen.click(*VIEWPORT)
    session.tell("frame", "9")
    session.until("frame 9", lambda s: s["frame"] == 9 and "mm away" in s["overlay"], 20)
    time.sleep(1.5)
    session.picture("coming")
    assert "Traceback" not in session.screen.log.read_text()


def yellow(path: Path, box: tuple[int, int, int, int]) -> int:
    """Pixels of the colour of contact in a part of a picture."""
    numpy, image = pytest.importorskip("numpy"), pytest.importorskip("PIL.Image")
    pixels = numpy.asarray(image.open(path).convert("RGB").crop(box)).astype(int)
    return int(((pixels[..., 0] > 200) & (pixels[..., 1] > 170) & (pixels[..., 2] < 110)).sum())
