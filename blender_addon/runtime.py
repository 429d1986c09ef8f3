# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes on right now: the one place that panels read and operators write.

Plain Python rather than properties of a scene or window manager, so that undo, a new file and autosave cannot touch it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .client.check import ServerStatus
from .client.journal import JobRecord
from .client.task import RenderTask, TaskState
from .results.history import Entry


@dataclass(frozen=True)
class Result:
    """A finished video and the scene frame at which it begins."""

    path: Path
    frame_start: int


@dataclass
class Runtime:
    server: ServerStatus = field(default_factory=ServerStatus)
    exporting: str = ""  # what the export does; empty when none runs
    export_fraction: float = 0.0
    task: RenderTask | None = None
    task_state: TaskState | None = None
    task_frame_start: int = 1
    problem: str = ""  # of the last export
    result: Result | None = None
    file_number: int = 0  # counts the files that were opened, so that a result knows whether it is still at home
    task_file: int = -1  # the file that the task was started in
    followed: list[RenderTask] = field(default_factory=list)  # jobs of a Blender before this one
    waiting: list[JobRecord] = field(default_factory=list)  # jobs that nobody follows
    history: list[Entry] = field(default_factory=list)
    rendering_original: str = ""  # the video whose original is being rendered

    @property
    def rendering(self) -> bool:
        return self.task is not None and (self.task_state is None or not self.task_state.outcome)

    @property
    def busy(self) -> bool:
        return bool(self.exporting) or self.rendering


RUNTIME = Runtime()
