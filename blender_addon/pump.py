# SPDX-License-Identifier: GPL-3.0-or-later
"""The only bridge from the client's threads to Blender: a timer that empties their queues in the main thread.

Timers never fire in background mode; call :func:`pump` there.
"""

from __future__ import annotations

import queue

import bpy

from .client.check import ServerStatus, start_check
from .preferences import server_address
from .result import show_result
from .runtime import RUNTIME, Result

_INTERVAL = 0.2  # seconds


def pump() -> bool:
    """Takes in what the threads have to say. Returns whether there may be more to come."""
    changed = _take_server_answer()
    changed |= _take_task_states()
    if changed:
        redraw()
    return RUNTIME.server_answer is not None or RUNTIME.rendering


def ensure_running() -> None:
    """Arms the timer; it ends by itself when there is nothing left to wait for."""
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=_INTERVAL, persistent=True)


def stop() -> None:
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)


def ask_server() -> None:
    """Finds out in the background whether the server is there. An answer from an address of before is not heard."""
    RUNTIME.server = ServerStatus("checking", "Asking the server", "", RUNTIME.server.models)
    RUNTIME.server_answer = start_check(server_address())
    ensure_running()


def redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


def _tick() -> float | None:
    return _INTERVAL if pump() else None


def _take_server_answer() -> bool:
    if RUNTIME.server_answer is None:
        return False
    try:
        RUNTIME.server = RUNTIME.server_answer.get_nowait()
    except queue.Empty:
        return False
    RUNTIME.server_answer = None
    return True


def _take_task_states() -> bool:
    task = RUNTIME.task
    if task is None:
        return False
    task.address = server_address()  # the user may have mended it
    changed = False
    while True:
        try:
            state = task.states.get_nowait()
        except queue.Empty:
            return changed
        changed = True
        RUNTIME.task_state = state
        if state.outcome == "done":
            RUNTIME.result = Result(task.output, RUNTIME.task_frame_start)
            show_result(RUNTIME.result)
