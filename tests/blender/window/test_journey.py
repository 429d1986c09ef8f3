# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole day's work with the mouse, from the zip to a batch, with the nano on a server that the panel's button starts.

And what of it keeps the interface from answering. Run with ``pytest -m window``; a picture of every state is left in
``HVG3D_WINDOW_PICTURES``, else in ``out/window``, and the table of the waits beside them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from blender_addon import build_extension

from .screen import Screen, unavailable
from .test_window import MARK_OBJECT, MARK_RIGHT_HAND, TAB, VIEWPORT, Session

pytestmark = [
    pytest.mark.window,
    pytest.mark.timeout(1500),  # the first set-up downloads Blender
    pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "-"),
    pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="needs the bpy wheel to make the scene"),
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch for the server"),
]

PICTURES = Path(os.environ.get("HVG3D_WINDOW_PICTURES") or Path(build_extension.ROOT) / "out" / "window")
# Where things are in a 1600 x 1000 window of Blender 5.2: each panel alone is open, below the headers of those before.
PANELS = ("marks", "grasp", "shot", "overlay", "render", "results", "batch", "server")
HEADER, PITCH = 97, 28
SIDEBAR, NARROW = 1095, 501  # left of the headers: beside the viewport, and once a second editor has halved it
START_SERVER = (1160, 414)
SUGGEST = (1174, 575)
RENDER = (1174, 340)
CANCEL = (1272, 393)
REROLL = (NARROW + 146, 441)
COMPARE = (NARROW + 127, 623)
WIPE = (618, 719)
MORE_SEEDS = (681, 601)
START_BATCH = (568, 761)
LIMIT = 0.1  # seconds


class Journey(Session):
    def __init__(self, folder: Path, screen: Screen) -> None:
        super().__init__(folder, screen)
        self.left = SIDEBAR

    def picture(self, name: str) -> Path:
        if name not in ("failed", "generating-with-preview"):  # that one is drawn already, and soon gone
            self.tell("drawn")
        path = super().picture(name)
        PICTURES.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, PICTURES)
        return path

    def panel(self, name: str) -> None:
        """Only this one open."""
        for _ in range(8):
            others = [one for one in self.settled()["open"] if one != name]
            if not others:
                break
            first = min(others, key=PANELS.index)  # those above it are closed, so that it is where it is
            self.toggle(first)
        for _ in range(4):
            if self.settled()["open"] == [name]:
                return
            self.toggle(name)
        raise AssertionError(f"panel {name}: {self.status()['open']}")

    def toggle(self, name: str) -> None:
        before = name in self.status()["open"]
        self.screen.click(self.left, HEADER + PITCH * PANELS.index(name))
        end = time.monotonic() + 8
        while time.monotonic() < end and (name in self.status()["open"]) == before:
            time.sleep(0.1)

    def settled(self) -> dict[str, Any]:
        """Panels glide into place."""
        before = self.status()
        while True:
            time.sleep(1.0)
            if self.status()["open"] == before["open"]:
                return before
            before = self.status()


@pytest.fixture
def journey(tmp_path):
    """A new user's Blender with the zip installed and the demo scene; no server runs."""
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
        "scene = bpy.context.scene; scene.hvg3d.width, scene.hvg3d.height, scene.frame_end = 720, 480, 17;"
        f"bpy.ops.wm.save_as_mainfile(filepath={str(tmp_path / 'grasp.blend')!r}); import os; os._exit(0)"
    )
    root = Path(build_extension.ROOT)
    subprocess.run([sys.executable, "-c", make_scene], cwd=root, check=True, capture_output=True)
    here = Path(__file__).parent
    for name in ("inside.py", "inside_clock.py"):
        shutil.copy(here / name, tmp_path)
    chosen = {"server_home": str(tmp_path / "home"), "server_program": "/project/python"}
    (tmp_path / "preferences.json").write_text(json.dumps(chosen))
    with Screen(tmp_path, server=True) as screen:
        screen.command("--command", "extension", "install-file", "-r", "user_default", "-e", f"/project/{package.name}")
        scripts = ("--python", "/project/inside.py", "--python", "/project/inside_clock.py")
        screen.start("/project/grasp.blend", *scripts)
        yield Journey(tmp_path, screen)


def test_a_day_with_the_extension(journey):
    status = journey.until("window", lambda s: s["server"] == "problem", 120)
    assert status["version"].startswith("5.2")
    time.sleep(2)
    journey.screen.click(*TAB)
    journey.until("tab", lambda s: "marks" in s["open"], 30)
    time.sleep(2)
    journey.picture("installed")

    # A server, by the panel's button.
    journey.panel("server")
    journey.picture("no-server")
    journey.press(START_SERVER, "server", lambda s: s["server"] in ("starting", "ready"))
    status = journey.until("server", lambda s: s["server"] == "ready", 120)
    assert status["mine"]
    time.sleep(1)
    journey.picture("server-started")

    # Mark and check.
    journey.panel("marks")
    journey.select("Right hand rig")
    hand = ["right hand", "right_hand", ["Right hand rig"]]
    journey.press(MARK_RIGHT_HAND, "hand", lambda s: s["entities"] == [hand])
    journey.select("Mug")
    journey.press(MARK_OBJECT, "object", lambda s: s["entities"] == [hand, ["Mug", "object", ["Mug"]]])
    journey.tell("through-camera")
    time.sleep(1)
    journey.picture("marked")
    journey.panel("render")
    journey.press(SUGGEST, "prompt", lambda s: s["prompt"])
    journey.picture("ready")

    # What the window takes by itself: first the sidebar drawn as often as while a video is made, then every frame.
    measure(journey, "redraws", "phase", 8)
    journey.screen.click(*VIEWPORT)
    measure(journey, "scrubbing", "scrub", 25)
    journey.tell("frame", "1")

    # Esc while Blender renders the first picture: nothing is sent, and the scene is as it was.
    before = journey.status()["output"]
    journey.press(RENDER, "export", lambda s: s["exporting"])
    journey.until("first picture", lambda s: s["exporting"] == "Rendering the first picture")
    journey.screen.key("Escape")
    status = journey.until("stopped", lambda s: not s["exporting"], 60)
    assert not status["rendering"] and not status["problem"]
    assert (status["frame"], status["output"]) == (1, before)

    # Render; cancel; render again, and watch.
    journey.press(RENDER, "export", lambda s: s["exporting"] or s["rendering"])
    journey.until("reading", lambda s: "frame" in s["exporting"])
    time.sleep(1.5)  # software OpenGL: until it is drawn
    journey.picture("reading-the-scene")
    journey.until("generation", lambda s: s["phase"] in ("Loading the model", "Generating"))
    time.sleep(2)
    journey.press(CANCEL, "cancelled", lambda s: s["outcome"] == "cancelled")
    time.sleep(2)
    journey.picture("cancelled")
    assert journey.status()["image"] is None
    journey.tell("quality", "FINE")  # more steps, more time to look
    journey.press(RENDER, "export", lambda s: s["exporting"] or s["rendering"])
    journey.until("live preview", lambda s: s["live"] and s["phase"] == "Generating")
    time.sleep(1)
    journey.picture("generating-with-preview")
    assert journey.status()["rendering"] and journey.status()["live"]
    status = journey.until("video", lambda s: s["outcome"] == "done" and s["image"] and s["history"])
    assert status["image"] == {"source": "MOVIE", "frames": 17, "refresh": True}
    journey.tell("quality", "STANDARD")
    journey.left = NARROW
    time.sleep(4)
    journey.picture("video")

    # Another seed, from the same clip.
    first = status["history"][0]
    journey.press(REROLL, "re-roll", lambda s: s["rendering"])
    status = journey.until("second video", lambda s: s["outcome"] == "done" and len(s["history"]) == 2)
    second = status["history"][0]
    assert second[0] != first[0] and second[1] == first[1]
    journey.panel("results")
    time.sleep(2)
    journey.picture("results")

    # The comparison, and its slider.
    journey.press(COMPARE, "comparison", lambda s: s["wipe"] == 0.5 and "SEQUENCE_EDITOR" in s["editors"])
    time.sleep(5)
    before = journey.picture("comparison")
    journey.screen.click(*WIPE)  # a click on a slider lets its value be typed
    time.sleep(2)
    for key in ("0", "period", "7", "5", "Return"):
        journey.screen.key(key)
        time.sleep(0.3)
    status = journey.until("slider", lambda s: abs(s["wipe"] - 0.75) < 1e-4, 20)
    time.sleep(4)
    end = time.monotonic() + 60  # the sequencer renders its picture in a thread of its own
    while differ(before, journey.picture("comparison-wiped"), (800, 60, 1300, 390)) < 0.05:  # the picture follows
        assert time.monotonic() < end, "the comparison does not follow its slider"
        time.sleep(3)

    # A small batch.
    journey.panel("batch")
    journey.press(MORE_SEEDS, "two seeds", lambda s: s["seeds"] == 2)
    time.sleep(2)
    journey.picture("batch-chosen")
    journey.press(START_BATCH, "batch", lambda s: s["batch"] and s["batch"][1])
    journey.until("batch at work", lambda s: s["batch"][1] and not s["exporting"])
    time.sleep(2)
    journey.picture("batch-running")
    status = journey.until("batch", lambda s: s["batch"] and not s["batch"][1], 300)
    assert status["batch"] == ["2 of 2 done", False, ""]
    time.sleep(2)
    journey.picture("batch-done")
    assert len(list((journey.folder / "hvg3d" / "batch" / "videos").glob("*.mp4"))) == 2
    assert "Traceback" not in journey.screen.log.read_text()

    # The interface.
    told = json.loads((journey.folder / "clock.json").read_text())
    text = table(told)
    print(text)
    (PICTURES / "interface.md").write_text(text)
    assert {"export", "upload", "generation", "download"} <= set(told["longest"])
    for phase, (seconds, what) in told["busiest"].items():
        assert seconds < LIMIT, f"{phase}: {what} kept the interface from answering for {1000 * seconds:.0f} ms\n{text}"
    for phase, (seconds, what) in told["longest"].items():  # what waits for threads that others keep from running
        assert seconds < 3 * LIMIT, f"{phase}: {what} waited for {1000 * seconds:.0f} ms\n{text}"


def measure(journey: Journey, phase: str, switch: str, seconds: float) -> None:
    for name in {"phase", switch}:
        (journey.folder / name).write_text(phase)
    time.sleep(seconds)
    for name in {"phase", switch}:
        (journey.folder / name).unlink()
    time.sleep(1)


def table(told: dict[str, Any]) -> str:
    """Milliseconds. A beat comes 10 ms after the last where nothing is in the way; time given to others is off."""
    rows = [
        "| | beats | late, median | late, most | add-on, most | longest call | processor in one | calls, median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = {
        "redraws": "the sidebar drawn 5 times a second, no add-on at work",
        "export": "export",
        "scrubbing": "the same frames played, no add-on at work",
        "upload": "upload",
        "waiting": "waiting, model loading",
        "generation": "generation",
        "download": "download, opening the video",
    }
    for phase, name in names.items():
        beats = told["beats"].get(phase, [])
        if not beats and phase not in told["calls"]:
            continue
        late = [max(0.0, gap - 0.01 - evaluation - lost) for gap, _, evaluation, lost in beats]
        own = [own for _, own, _, _ in beats]
        calls = told["calls"].get(phase, [])
        longest, what = told["longest"].get(phase, (0.0, "-"))
        cells = [
            name,
            str(len(beats)),
            *((f"{1000 * statistics.median(late):.1f}", f"{1000 * max(late):.0f}") if beats else ("-", "-")),
            f"{1000 * max(own):.1f}" if beats else "-",
            f"{1000 * longest:.1f} ({what})",
            f"{1000 * told['busiest'].get(phase, (0.0, ''))[0]:.1f}",
            f"{1000 * statistics.median(calls):.2f}" if calls else "-",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def differ(one: Path, other: Path, box: tuple[int, int, int, int]) -> float:
    """Share of the pixels in a part of two pictures that are not the same."""
    numpy, image = pytest.importorskip("numpy"), pytest.importorskip("PIL.Image")
    first, second = (numpy.asarray(image.open(path).convert("RGB").crop(box)).astype(int) for path in (one, other))
    return float((abs(first - second).max(-1) > 24).mean())
