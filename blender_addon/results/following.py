# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs and results in the main thread: what is followed, what waits to be fetched, what the history holds."""

from __future__ import annotations

import contextlib
import queue
import threading

import bpy
from bpy.app.handlers import persistent

from ..client.journal import JobRecord
from ..client.task import RenderTask, TaskState
from ..result import desk, results_folder, user_folder
from ..runtime import RUNTIME

_found: queue.Queue[tuple[list[JobRecord], bool]] = queue.Queue()
_looking = 0


def begin(task: RenderTask, frame_start: int) -> None:
    """Start ``task`` as the one that the panel shows."""
    from .. import pump
    from . import thumbs

    thumbs.drop_live()
    RUNTIME.task, RUNTIME.task_state = task, None
    RUNTIME.task_frame_start = frame_start
    RUNTIME.task_file = RUNTIME.file_number
    task.start()
    pump.ensure_running()


def start() -> None:
    """When the extension is switched on: take up the jobs of a Blender that is gone, and list the results."""
    look(take_up=True)
    refresh()


def stop() -> None:
    for task in RUNTIME.followed:
        task.detach()
    RUNTIME.followed.clear()
    if RUNTIME.rendering:  # whoever comes next takes it up
        RUNTIME.task = RUNTIME.task_state = None


def look(*, take_up: bool = False) -> None:
    """See in a thread which jobs nobody follows; with ``take_up`` follow them."""
    global _looking
    _looking += 1
    journal = desk().journal
    threading.Thread(target=lambda: _found.put((journal.waiting(), take_up)), name="hvg3d jobs", daemon=True).start()


def refresh() -> None:
    """List the results anew, in a thread."""
    desk().history.refresh([results_folder(), user_folder("results")])


def active() -> bool:
    return bool(RUNTIME.followed) or _looking > 0 or desk().history.reading


def take_up(record: JobRecord) -> RenderTask:
    """Follow a job again: in the panel, if nothing else is shown there."""
    from .. import pump
    from ..preferences import server_address

    task = RenderTask.resume(record, server_address(), desk())
    RUNTIME.waiting = [other for other in RUNTIME.waiting if other.id != record.id]
    if not RUNTIME.rendering:
        begin(task, int(record.shot.get("frame_start", 1)))
        from ..result import blend_name

        if record.shot.get("blend") != blend_name():
            RUNTIME.task_file = -1
    else:
        RUNTIME.followed.append(task)
        task.start()
        pump.ensure_running()
    return task


def ended(task: RenderTask, state: TaskState) -> None:
    """A job that was shown or followed is over."""
    if state.fetchable:
        look()
    refresh()


def tick() -> bool:
    """Takes in what threads have found; whether anything has changed."""
    return _take_found() | _take_followed() | _take_history()


@persistent
def after_load(*_) -> None:
    """Another file: the list in the window manager is empty, and its folder may hold other results."""
    RUNTIME.file_number += 1
    show_history()
    refresh()
    from .. import pump

    pump.ensure_running()


def show_history() -> None:
    """Bring the list that the panel draws up to date, keeping what is chosen in it."""
    manager = bpy.context.window_manager
    results = manager.hvg3d_results
    chosen = results[manager.hvg3d_result_index].movie if 0 <= manager.hvg3d_result_index < len(results) else ""
    newest = results[0].movie if len(results) else ""
    results.clear()
    for entry in RUNTIME.history:
        item = results.add()
        item.movie = entry.movie
        item.name = f"{entry.scene} {entry.seed} {entry.prompt}"  # what the list's search looks through
    movies = [entry.movie for entry in RUNTIME.history]
    fresh = bool(movies) and movies[0] != newest
    manager.hvg3d_result_index = 0 if fresh or chosen not in movies else movies.index(chosen)


def _take_found() -> bool:
    global _looking
    changed = False
    while True:
        try:
            records, take = _found.get_nowait()
        except queue.Empty:
            return changed
        _looking -= 1
        changed = True
        mine = {task.id for task in RUNTIME.followed if task is not None}
        if RUNTIME.rendering and RUNTIME.task is not None:
            mine.add(RUNTIME.task.id)
        RUNTIME.waiting = [record for record in records if record.id not in mine]
        if take:
            for record in list(RUNTIME.waiting):
                with contextlib.suppress(KeyError, TypeError):  # written by another version: it is shown as waiting
                    take_up(record)


def _take_followed() -> bool:
    from ..preferences import server_address

    changed = False
    for task in list(RUNTIME.followed):
        if task.follows_preferences:
            task.address = server_address()
        with contextlib.suppress(queue.Empty):
            while True:
                state = task.states.get_nowait()
                if state.outcome:
                    RUNTIME.followed.remove(task)
                    ended(task, state)
                    changed = True
    return changed


def _take_history() -> bool:
    changed = False
    with contextlib.suppress(queue.Empty):
        while True:
            RUNTIME.history = desk().history.answers.get_nowait()
            changed = True
    if changed:
        from . import thumbs

        thumbs.look_again()
        show_history()
    return changed
