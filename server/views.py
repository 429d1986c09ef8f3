# SPDX-License-Identifier: Apache-2.0
"""A row of the job table as clients see it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from sqlite3 import Row
from typing import Protocol

from server.schemas import Attempt, ErrorInfo, JobResult, JobState, JobView, Progress


class Turn(Protocol):
    """What decides when a client's turn comes, see :mod:`server.scheduler`."""

    @property
    def owner(self) -> str: ...
    @property
    def used(self) -> float: ...
    @property
    def served(self) -> float: ...
    @property
    def queued(self) -> int: ...


class Place:
    """Foretells places in the whole queue as if every job took ``seconds`` and no model was worth waiting for."""

    def __init__(self, clients: Sequence[Turn], seconds: float) -> None:
        self._clients = {client.owner: client for client in clients}
        self._order = {client.owner: n for n, client in enumerate(clients)}
        self._seconds = max(seconds, 1e-3)

    def of(self, owner: str, ahead: int) -> int:
        """The place of a client's job which has ``ahead`` others of the same client before it. All are different."""
        mine = self._clients[owner]
        place = ahead
        for other in self._clients.values():
            if other.owner == owner:
                continue
            # The other's n-th job comes before this one if it begins with less used; on a tie the order is the list's.
            rounds = ahead + (mine.used - other.used) / self._seconds
            whole = round(rounds)
            if abs(rounds - whole) < 1e-6:
                before = whole + (self._order[other.owner] < self._order[owner])
            else:
                before = math.ceil(rounds)
            place += min(max(before, 0), other.queued)
        return place


def job_view(row: Row, position: int | None) -> JobView:
    """``position`` in the queue. Built without validation: what is in the table was validated when it came."""
    base = f"/v1/jobs/{row['id']}"
    result = None
    if row["state"] == "done" and row["removed"] is None:
        names = {"video": "video.mp4", "scene": "scene.mp4", "metadata": "metadata.json", "preview": "preview.jpg"}
        result = JobResult(**{kind: f"{base}/{name}" for kind, name in names.items()})
    return JobView.model_construct(
        id=row["id"],
        state=JobState(row["state"]),
        request=json.loads(row["request"]),
        label=row["label"],
        client=row["client"],
        created_at=row["created"],
        started_at=row["started"],
        finished_at=row["finished"],
        priority=row["priority"],
        queue_position=position,
        attempt=row["attempt"],
        attempts=[Attempt(**entry) for entry in json.loads(row["attempts"])],
        note=row["note"],
        progress=Progress(**json.loads(row["progress"])) if row["progress"] else None,
        error=ErrorInfo(**json.loads(row["error"])) if row["error"] else None,
        result=result,
        result_bytes=row["bytes"],
        removed_at=row["removed"],
    )
