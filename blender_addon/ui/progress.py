# SPDX-License-Identifier: GPL-3.0-or-later
"""What is going on, or how it ended."""

from __future__ import annotations

from collections.abc import Callable

from ..runtime import RUNTIME


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
        layout.progress(text=RUNTIME.exporting, factor=RUNTIME.export_fraction)
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
        row.progress(text=f"{state.phase}{rest}", factor=state.fraction)
        row.operator("hvg3d.cancel", text="", icon="CANCEL")
    if state.message:
        icon = {"done": "CHECKMARK", "failed": "ERROR"}.get(state.outcome, "INFO" if state.connected else "ERROR")
        draw_text(layout, state.message, width, icon)
    if state.remedy:
        draw_text(layout, state.remedy, width, "BLANK1")
    if state.outcome == "done":
        layout.operator("hvg3d.show_result", icon="IMAGE_DATA")
