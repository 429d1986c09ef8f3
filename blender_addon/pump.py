# SPDX-License-Identifier: GPL-3.0-or-later
"""The only bridge from the client's threads to Blender: a timer that empties their queues in the main thread.

Timers never fire in background mode; call :func:`pump` there.
"""

from __future__ import annotations

import queue

import bpy

from .client.check import ServerStatus
from .client.http import ONLINE
from .preferences import care_settings, server_address
from .result import show_result
from .results import following, thumbs
from .runtime import RUNTIME, Result
from .server_care.care import CARE

_INTERVAL = 0.2  # seconds
_WATCH_INTERVAL = 1.0
_status: ServerStatus | None = None  # the last that was taken from CARE


def pump() -> bool:
    """Takes in what the threads have to say. Returns whether there may be more to come."""
    ONLINE.allowed = bpy.app.online_access
    changed = CARE.tick()
    changed |= _take_server_status()
    changed |= _take_task_states()
    changed |= following.tick()
    if changed:
        redraw()
    return CARE.active or RUNTIME.rendering or following.active()


def ensure_running() -> None:
    """Arms the timer; it ends by itself when there is nothing left to wait for."""
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=_INTERVAL, persistent=True)


def stop() -> None:
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)


def ask_server() -> None:
    """Finds out in the background whether the server is there. An answer from an address of before is not heard."""
    CARE.use(care_settings())
    CARE.ask()
    _take_server_status()
    ensure_running()


def watch() -> float:
    """A timer that never ends: looks after the server while nothing else goes on."""
    if pump():
        ensure_running()
    return _WATCH_INTERVAL


def redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in ("VIEW_3D", "PREFERENCES", "SEQUENCE_EDITOR"):
                for region in area.regions:  # of a viewport the sidebar alone: drawing a scene can take long
                    if region.type == "UI" or area.type == "PREFERENCES":
                        region.tag_redraw()


def _tick() -> float | None:
    return _INTERVAL if pump() else None


def _take_server_status() -> bool:
    global _status
    if CARE.status is _status:
        return False
    _status = RUNTIME.server = CARE.status
    return True


def _take_task_states() -> bool:
    task = RUNTIME.task
    if task is None:
        return False
    if task.follows_preferences:
        task.address = server_address()  # the user may have mended it
    changed = False
    while True:
        try:
            state = task.states.get_nowait()
        except queue.Empty:
            return changed
        changed = True
        RUNTIME.task_state = state
        if state.outcome:
            thumbs.drop_live()
            following.ended(task, state)
        elif state.previews:
            thumbs.take_live(task.preview, state.previews)
        if state.outcome == "done":
            RUNTIME.result = Result(task.output, RUNTIME.task_frame_start)
            if RUNTIME.task_file == RUNTIME.file_number:  # else another file is open, which it has no place in
                try:
                    show_result(RUNTIME.result)
                except RuntimeError as error:
                    RUNTIME.problem = str(error).strip()
