# SPDX-License-Identifier: GPL-3.0-or-later
"""What is going on, or how it ended."""

from __future__ import annotations

from collections.abc import Callable

from ..results import thumbs
from ..runtime import RUNTIME
from ..translations import tr


def duration(seconds: float) -> str:
    """Such as "40 s", "3 min 20 s" or "2 h 5 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def draw_progress(layout, draw_text: Callable, width: int) -> None:
    if RUNTIME.exporting:
        layout.progress(text=tr(RUNTIME.exporting), factor=RUNTIME.export_fraction)
        layout.label(text="Press Esc to cancel", icon="BLANK1")
        return
    if RUNTIME.problem:
        draw_text(layout, RUNTIME.problem, width, "ERROR")
    state = RUNTIME.task_state
    if RUNTIME.task is None or state is None:
        return
    if not state.outcome:
        rest = f", {duration(state.eta)} left" if state.eta is not None else ""
        row = layout.row(align=True)
        row.progress(text=tr(f"{state.phase}{rest}"), factor=state.fraction)
        row.operator("hvg3d.cancel", text="", icon="CANCEL")
        picture = thumbs.live_icon()
        if picture:
            layout.box().template_icon(icon_value=picture, scale=9.0)
    if state.message:
        icon = {"done": "CHECKMARK", "failed": "ERROR"}.get(state.outcome, "INFO" if state.connected else "ERROR")
        draw_text(layout, state.message, width, icon)
    if state.remedy:
        draw_text(layout, state.remedy, width, "BLANK1")
    if state.fetchable and RUNTIME.waiting:
        layout.operator("hvg3d.fetch_result", text="Fetch Again", icon="IMPORT").job = RUNTIME.task.id
    if state.outcome == "done":
        row = layout.row(align=True)
        path = str(RUNTIME.task.output)
        row.operator("hvg3d.view_result", text="Show", icon="IMAGE_DATA").result = path
        row.operator("hvg3d.compare", text="Compare", icon="SEQ_SPLITVIEW").result = path
        row.operator("hvg3d.reroll", text="Re-roll", icon="FILE_REFRESH").result = path
