# SPDX-License-Identifier: Apache-2.0
"""Server-sent events. The event table is the truth; waking a listener is only a hint that it has grown.

So a slow listener costs nothing, a lost hint costs a few seconds, and one that comes back with the last id it saw
(``Last-Event-ID`` or ``?since=``) reads on where it was, even after a restart of the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from server.store import Store

_KEEP_ALIVE_SECONDS = 15.0
_RETRY_MILLISECONDS = 1000
_BATCH = 200


class Events:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = asyncio.Event()
        self.closed = False
        self.streams = 0
        """Open ones."""

    def wake(self) -> None:
        """Call after the store has stored an event."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def close(self) -> None:
        """End every stream, so that the server can stop."""
        self.closed = True
        self.wake()

    async def stream(self, since: int | None, job: str | None) -> AsyncIterator[str]:
        """See :meth:`_read`, counted."""
        self.streams += 1
        try:
            async for text in self._read(since, job):
                yield text
        finally:
            self.streams -= 1

    async def _read(self, since: int | None, job: str | None) -> AsyncIterator[str]:
        """Events after ``since`` (None: from now on), of one job or of all, in the text form of an event stream.

        Event types: ``job`` (a JobView, at every change of state or place), ``progress`` ({id, progress}),
        ``deleted`` ({id}), and ``reset`` ({last_event}): events were missed for good, read GET /v1/jobs again.
        """
        yield f"retry: {_RETRY_MILLISECONDS}\n: listening\n\n"
        last = self._store.last_event()
        if since is None:
            since = last
        elif since > last or self._was_trimmed(since):
            since = last
            yield f'id: {last}\nevent: reset\ndata: {{"last_event": {last}}}\n\n'
        while not self.closed:
            changed = self._changed  # before reading, so that what comes in between is not slept over
            events = self._store.events_after(since, _BATCH)
            for event in events:
                since = event.id
                if job is None or event.job == job:
                    yield f"id: {event.id}\nevent: {event.type}\ndata: {event.data}\n\n"
            if events:
                continue
            try:
                await asyncio.wait_for(changed.wait(), _KEEP_ALIVE_SECONDS)
            except TimeoutError:
                yield ": still here\n\n"

    def _was_trimmed(self, since: int) -> bool:
        """Whether events after ``since`` have been deleted. Ids start at 1, and deletion takes the oldest."""
        first = self._store.first_event()
        return since > 0 and first is not None and since < first - 1
