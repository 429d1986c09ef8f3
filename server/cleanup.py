# SPDX-License-Identifier: Apache-2.0
"""Makes room: removes old results and clips that nobody waits for, by age and by total size.

What is removed is the video, never the job: it stays in the history, so that its id still means the same job. Clips of
jobs that wait or run are kept, and so is every clip that was asked for within the last hour, whose job may be on its
way. Files go before the note that they are gone; after a crash in between, the next clean-up completes it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from anyio import to_thread

from server.files import Home
from server.store import Store

log = logging.getLogger("hvg3d.server")

_DAY = 86400.0
_CLIP_REST_SECONDS = 3600.0


@dataclass(frozen=True)
class Item:
    """A result (of the job ``name``) or a clip (its hash) that can be removed. ``since``: seconds since 1970."""

    kind: str
    name: str
    since: float
    bytes: int


def removable(store: Store, clips: Sequence[Item], now: float) -> list[Item]:
    """Everything that may go, the oldest first."""
    results = [Item("result", job, finished, size) for job, finished, size in store.kept_results()]
    unused = [clip for clip in clips if clip.since < now - _CLIP_REST_SECONDS and not store.clip_is_wanted(clip.name)]
    return sorted([*results, *unused], key=lambda item: (item.since, item.name))


def choose(items: Sequence[Item], now: float, keep_days: float | None, keep_bytes: int | None) -> list[Item]:
    """Those of ``items`` (the oldest first) that must go."""
    total = sum(item.bytes for item in items)
    chosen = []
    for item in items:
        too_old = keep_days is not None and item.since < now - keep_days * _DAY
        too_much = keep_bytes is not None and total > keep_bytes
        if too_old or too_much:
            chosen.append(item)
            total -= item.bytes
    return chosen


def clips_on_disk(home: Home) -> list[Item]:
    return [Item("clip", name, since, size) for name, since, size in home.list_clips()]


def plan(store: Store, home: Home, keep_days: float | None, keep_bytes: int | None) -> list[Item]:
    now = time.time()
    return choose(removable(store, clips_on_disk(home), now), now, keep_days, keep_bytes)


async def clean_up(store: Store, home: Home, keep_days: float | None, keep_bytes: int | None) -> list[Item]:
    """Remove what must go; the files in a thread, for the table belongs to the event loop's."""
    now = time.time()
    clips = await to_thread.run_sync(clips_on_disk, home)
    chosen = choose(removable(store, clips, now), now, keep_days, keep_bytes)
    for item in chosen:
        if item.kind == "result":
            await to_thread.run_sync(home.remove_result, item.name)
            store.forget_result(item.name)
        elif not store.clip_is_wanted(item.name):  # a job may have come meanwhile
            home.clip(item.name).unlink(missing_ok=True)
    if chosen:
        size = sum(item.bytes for item in chosen) / 2**20
        log.info("removed %d results and clips to make room, %.1f MiB", len(chosen), size)
    return chosen


def describe(items: Sequence[Item]) -> str:
    """What a clean-up would remove, for people."""
    lines = [
        f"{item.kind:6}  {time.strftime('%Y-%m-%d %H:%M', time.localtime(item.since))}  "
        f"{item.bytes / 2**20:10.2f} MiB  {item.name}"
        for item in items
    ]
    size = sum(item.bytes for item in items) / 2**20
    return "\n".join([*lines, f"{len(items)} results and clips, {size:.1f} MiB, would be removed"])
