# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside the window's Blender beside inside.py: how long its interface does not answer, and for what.

A timer that wants to run every 10 ms notes how late it comes. What of that time was the add-on's own code in the main
thread, what the evaluation of a frame of the scene, and what the system gave to other processes, is noted with it. The
rest is Blender's own: drawing, above all, which with software OpenGL takes long.
"""

import importlib
import json
import os
import threading
import time
from pathlib import Path

import bpy

PACKAGE = "bl_ext.user_default.hvg3d"
FOLDER = Path("/project")
INTERVAL = 0.01
_ENTRIES = ("draw", "draw_header", "draw_item", "filter_items", "poll", "invoke", "execute", "modal", "cancel")


def waited() -> float:
    """Seconds that this thread has waited for a processor so far (Linux: schedstat, the second number)."""
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


class Clock:
    def __init__(self) -> None:
        self.depth = 0
        self.own = self.evaluation = 0.0  # seconds since the last beat
        self.evaluating = self.evaluating_busy = 0.0
        self.evaluation_busy = 0.0  # the same in processor time
        self.longest: dict[str, tuple[float, str]] = {}  # phase: seconds of one call, of what
        self.busiest: dict[str, tuple[float, str]] = {}  # the same in the thread's processor time
        self.calls: dict[str, list[float]] = {}
        self.beats: dict[str, list[tuple[float, float, float, float]]] = {}  # phase: gap, own, evaluation, waited
        self.last = 0.0
        self.waited = 0.0

    def phase(self) -> str:
        wanted = FOLDER / "phase"  # of the side that measures without the add-on
        runtime = importlib.import_module(f"{PACKAGE}.runtime").RUNTIME
        state = runtime.task_state
        if runtime.exporting:
            return "export"
        if runtime.rendering:
            shown = state.phase.partition(",")[0] if state is not None else "Packing the clip"
            kinds = {"Generating": "generation", "Decoding the video": "generation", "Downloading": "download"}
            kinds |= dict.fromkeys(("Packing the clip", "Connecting", "Uploading", "Submitting"), "upload")
            return kinds.get(shown, "waiting")
        return wanted.read_text() if wanted.is_file() else "nothing"

    def around(self, name, function):
        def timed(*arguments):
            if self.depth:
                return function(*arguments)
            self.depth += 1
            phase = self.phase()
            label = f"{name} {importlib.import_module(f'{PACKAGE}.runtime').RUNTIME.exporting}".strip()
            start, before, lost = time.perf_counter(), self.evaluation, waited()
            busy = time.thread_time() - self.evaluation_busy
            try:
                return function(*arguments)
            finally:
                self.depth -= 1
                took = time.perf_counter() - start - (self.evaluation - before) - (waited() - lost)
                busy = time.thread_time() - self.evaluation_busy - busy
                self.own += took
                phase = phase if phase != "nothing" else self.phase()  # a click that starts something
                if state_is_done():
                    phase = "download"
                self.calls.setdefault(phase, []).append(took)
                self.longest[phase] = max(self.longest.get(phase, (0.0, "")), (took, label))
                self.busiest[phase] = max(self.busiest.get(phase, (0.0, "")), (busy, label))

        # Blender goes by the number of arguments that a function has.
        names = ", ".join(f"a{number}" for number in range(function.__code__.co_argcount))
        return eval(f"lambda {names}: timed({names})", {"timed": timed})

    def beat(self) -> float:
        now, lost = time.perf_counter(), waited()
        if self.last:
            noted = (now - self.last, self.own, self.evaluation, lost - self.waited)
            self.beats.setdefault(self.phase(), []).append(noted)
        self.last, self.waited = now, lost
        self.own = self.evaluation = 0.0
        return INTERVAL


CLOCK = Clock()
_was_rendering = [False]


def state_is_done() -> bool:
    """Once: the call in which the add-on takes in a finished video, and opens it."""
    runtime = importlib.import_module(f"{PACKAGE}.runtime").RUNTIME
    ended = _was_rendering[0] and not runtime.rendering
    _was_rendering[0] = runtime.rendering
    return ended


@bpy.app.handlers.persistent
def before_frame(*_) -> None:
    CLOCK.evaluating, CLOCK.evaluating_busy = time.perf_counter(), time.thread_time()


@bpy.app.handlers.persistent
def after_frame(*_) -> None:
    CLOCK.evaluation += time.perf_counter() - CLOCK.evaluating
    CLOCK.evaluation_busy += time.thread_time() - CLOCK.evaluating_busy


def start() -> None:
    registration = importlib.import_module(f"{PACKAGE}.registration")
    for cls in registration._CLASSES:
        for name in _ENTRIES:
            found = cls.__dict__.get(name) or next((b.__dict__[name] for b in cls.__mro__ if name in b.__dict__), None)
            module = getattr(getattr(found, "__func__", found), "__module__", "") or ""
            if found is None or not (module.startswith(PACKAGE) or module in ("__main__", "inside")):
                continue
            label = f"{cls.__name__}.{name}"
            if isinstance(found, classmethod):
                setattr(cls, name, classmethod(CLOCK.around(label, found.__func__)))
            else:
                setattr(cls, name, CLOCK.around(label, found))
    pump = importlib.import_module(f"{PACKAGE}.pump")
    pump.pump = CLOCK.around("pump", pump.pump)
    batch = importlib.import_module(f"{PACKAGE}.ops.batch")
    batch._tick = CLOCK.around("batch tick", batch._tick)
    result = importlib.import_module(f"{PACKAGE}.result")
    result._fit = CLOCK.around("fit", result._fit)
    bpy.app.handlers.frame_change_pre.insert(0, before_frame)
    bpy.app.handlers.frame_change_post.insert(0, after_frame)
    bpy.app.timers.register(CLOCK.beat, persistent=True)
    bpy.app.timers.register(write, first_interval=1.0, persistent=True)


def redraw_only() -> float | None:
    """What the add-on has redrawn while it works, without the add-on: the sidebar, five times a second."""
    if not (FOLDER / "phase").is_file():
        return 0.5
    for area in bpy.context.window_manager.windows[0].screen.areas:
        for region in area.regions:
            if area.type == "VIEW_3D" and region.type == "UI":
                region.tag_redraw()
    return 0.2


def scrub_only() -> float | None:
    """What the export has evaluated and drawn, without the export: every frame of the scene."""
    wanted = FOLDER / "scrub"
    if not wanted.is_file():
        return 0.5
    scene = bpy.context.scene
    scene.frame_set(scene.frame_current % scene.frame_end + 1)
    return 0.001


def write() -> float:
    start = time.perf_counter()
    told = {"beats": CLOCK.beats, "calls": CLOCK.calls, "longest": CLOCK.longest, "busiest": CLOCK.busiest}
    part = FOLDER / "clock.part"
    part.write_text(json.dumps(told))
    os.replace(part, FOLDER / "clock.json")
    if CLOCK.last:
        CLOCK.last += time.perf_counter() - start  # the clock's own writing does not count
    return 2.0


bpy.app.timers.register(start, first_interval=2.5)
bpy.app.timers.register(redraw_only, first_interval=3.0, persistent=True)
bpy.app.timers.register(scrub_only, first_interval=3.0, persistent=True)
