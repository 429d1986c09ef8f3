# SPDX-License-Identifier: Apache-2.0
"""Clips on their way in: streamed to disk, verified against their hash, gone on with after a broken connection.

home/uploads/<sha256>.<random>.part   what one request writes, or has left behind

A PUT starts at the beginning, in a file of its own. A PATCH goes on with the longest file of its clip; if a request is
still writing it (its client may be gone without the server having noticed), that one is stopped first. What a request
that breaks off has written stays for a day.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyio import to_thread
from starlette.requests import ClientDisconnect

from server.config import Settings
from server.errors import ApiError
from server.files import Home, sync_folder

KEPT_SECONDS = 24 * 3600
_BATCH = 1024 * 1024  # bytes hashed and written at once, in a thread
_DRAIN = 64 * 1024 * 1024  # of a refused body that is read and thrown away, so that the client gets to read the answer
_STOP_SECONDS = 5.0
_SETTLE_SECONDS = 0.3


@dataclass(frozen=True)
class Received:
    bytes: int  # of the clip, that are here now
    created: bool
    whole: bool = True


@dataclass(eq=False)
class _Writer:
    path: Path
    task: asyncio.Task[Any] | None
    size: int = 0  # written
    received: int = 0
    taken_over: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Uploads:
    """Used from the event loop's thread; writing and hashing happen in others."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._settings = settings
        self._writers: dict[str, list[_Writer]] = {}
        self.outcomes: Counter[str] = Counter()
        self.received_bytes = 0

    @property
    def active(self) -> int:
        return sum(len(writers) for writers in self._writers.values())

    async def offset(self, sha256: str) -> int:
        """How many bytes of an unfinished clip are here.

        A client that asks right after its connection broke is faster than what is still in the buffers of that
        connection, so a request that is being received gets a moment to end.
        """
        writers = list(self._writers.get(sha256, []))
        if writers:
            _, still = await asyncio.wait(
                [asyncio.create_task(writer.gone.wait()) for writer in writers], timeout=_SETTLE_SECONDS
            )
            for task in still:
                task.cancel()
        part = self._longest(sha256)
        received = [writer.received for writer in self._writers.get(sha256, [])]  # some of it in memory yet
        return max([part.stat().st_size if part else 0, *received])

    async def put(self, sha256: str, body: AsyncIterator[bytes], declared: int | None) -> Received:
        """A whole clip, from its beginning. ``declared``: its length, where the client says it."""
        path = self._home.clip(sha256)
        if path.exists():
            await _drain(body)
            return Received(path.stat().st_size, created=False)
        await self._admit(body, declared or 0, declared or 0)
        return await self._receive(sha256, self._new_part(sha256), body, declared, hashlib.sha256())

    async def patch(self, sha256: str, body: AsyncIterator[bytes], offset: int, total: int) -> Received:
        """Go on with a clip of ``total`` bytes at ``offset``, which must be where it stopped."""
        path = self._home.clip(sha256)
        if path.exists():
            await _drain(body)
            return Received(path.stat().st_size, created=False)
        await self._admit(body, total, total - offset)
        part = await self._take_over(sha256)
        here = part.stat().st_size if part.exists() else 0
        if offset != here:
            await _drain(body)
            raise ApiError(
                409,
                "wrong_offset",
                f"{here:,} bytes of this clip are here, the request goes on at {offset:,}",
                field="Upload-Offset",
                remedy="ask HEAD /v1/clips/{sha256} for Upload-Offset, and go on from there",
                headers={"Upload-Offset": str(here)},
            )
        if part.exists():
            part.touch()
        return await self._receive(sha256, part, body, total, None)

    async def _receive(
        self, sha256: str, part: Path, body: AsyncIterator[bytes], total: int | None, digest: Any
    ) -> Received:
        here = part.stat().st_size if part.exists() else 0
        writer = _Writer(part, asyncio.current_task(), here, here)
        self._writers.setdefault(sha256, []).append(writer)
        limit = self._settings.max_clip_bytes
        keep = False
        try:
            keep = True  # whatever breaks the transfer, what has come is good
            try:
                with open(part, "ab") as file:
                    await self._write(file, writer, body, limit, digest)
            except ApiError as error:
                keep = error.code != "clip_too_large"
                raise
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise self._disk_full(0) from None
                raise
            if total is not None and writer.size < total:
                self.outcomes["partial"] += 1
                return Received(writer.size, created=False, whole=False)
            keep = False
            if digest is None:
                digest = await to_thread.run_sync(_hash_file, part)
            if digest.hexdigest() != sha256:
                raise ApiError(
                    422,
                    "hash_mismatch",
                    f"the body's SHA-256 is {digest.hexdigest()}, not {sha256}: it was changed or cut off on the way",
                    field="sha256",
                    remedy="send the clip again, from its beginning",
                )
            os.replace(part, self._home.clip(sha256))
            sync_folder(self._home.clips)
            self.outcomes["stored"] += 1
            return Received(writer.size, created=True)
        except asyncio.CancelledError:
            if not writer.taken_over or writer.task is None:
                self.outcomes["broken"] += 1
                raise
            writer.task.uncancel()
            self.outcomes["taken_over"] += 1
            raise ApiError(
                409,
                "upload_taken_over",
                "another request goes on with the upload of this clip",
                field="sha256",
                remedy="ask HEAD /v1/clips/{sha256} now and then; where it stands still, go on with PATCH",
            ) from None
        except ApiError as error:
            self.outcomes[error.code] += 1
            raise
        except ClientDisconnect:
            self.outcomes["broken"] += 1
            raise ApiError(400, "upload_broken", "the connection broke", remedy="go on with PATCH") from None
        finally:
            self._writers[sha256].remove(writer)
            if not self._writers[sha256]:
                del self._writers[sha256]
            if not keep:
                part.unlink(missing_ok=True)
            self._tidy(sha256)
            writer.gone.set()

    async def _write(self, file: Any, writer: _Writer, body: AsyncIterator[bytes], limit: int, digest: Any) -> None:
        def flush(data: bytes) -> None:
            if digest is not None:
                digest.update(data)
            file.write(data)
            file.flush()

        pending = bytearray()
        size = writer.size
        try:
            async for chunk in body:
                size += len(chunk)
                writer.received = size
                self.received_bytes += len(chunk)
                if size > limit:
                    await _drain(body)
                    raise _too_large(size, limit)
                pending += chunk
                if len(pending) >= _BATCH:
                    data = bytes(pending)
                    pending.clear()
                    await to_thread.run_sync(flush, data)
                    writer.size += len(data)
        finally:
            with contextlib.suppress(OSError):  # also when it breaks off: every byte counts
                flush(bytes(pending))
                writer.size += len(pending)
        if writer.size != size:
            raise OSError(errno.ENOSPC, "the last bytes could not be written")
        await to_thread.run_sync(os.fsync, file.fileno())

    async def _admit(self, body: AsyncIterator[bytes], total: int, coming: int) -> None:
        limit = self._settings.max_clip_bytes
        refusal = None
        if total > limit:
            refusal = _too_large(total, limit)
        elif self.active >= self._settings.max_uploads:
            refusal = ApiError(
                429,
                "too_many_uploads",
                f"{self._settings.max_uploads} uploads are under way already",
                remedy="wait until one of them is over, and send it again",
                headers={"Retry-After": "2"},
            )
        elif shutil.disk_usage(self._home.root).free < coming + self._settings.min_free_bytes:
            refusal = self._disk_full(coming)
        if refusal is not None:
            self.outcomes[refusal.code] += 1
            await _drain(body)
            raise refusal

    def _disk_full(self, coming: int) -> ApiError:
        return disk_full(self._home.root, coming, self._settings.min_free_bytes)

    async def _take_over(self, sha256: str) -> Path:
        """The file to go on with, with nobody else writing it."""
        longest = self._longest(sha256)
        idle = longest.stat().st_size if longest else -1
        writer = max(self._writers.get(sha256, []), key=lambda writer: writer.received, default=None)
        if writer is not None and writer.task is not None and writer.received >= idle:
            writer.taken_over = True
            writer.task.cancel()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(writer.gone.wait(), _STOP_SECONDS)
        return self._longest(sha256) or self._new_part(sha256)

    def _new_part(self, sha256: str) -> Path:
        return self._home.uploads / f"{sha256}.{uuid.uuid4().hex}.part"

    def _parts(self, sha256: str) -> list[Path]:
        return sorted(self._home.uploads.glob(f"{sha256}.*.part"), key=lambda part: part.stat().st_size)

    def _longest(self, sha256: str) -> Path | None:
        parts = self._parts(sha256)
        return parts[-1] if parts else None

    def _tidy(self, sha256: str) -> None:
        """Keep the longest of what is left of a clip, and nothing once it is whole or too old."""
        writing = {writer.path for writers in self._writers.values() for writer in writers}
        idle = [part for part in self._parts(sha256) if part not in writing]
        done = self._home.clip(sha256).exists()
        for part in idle if done else idle[:-1]:
            part.unlink(missing_ok=True)
        self.clean(writing)

    def clean(self, writing: set[Path] | None = None) -> None:
        """Remove what nobody has gone on with for a day."""
        oldest = time.time() - KEPT_SECONDS
        for part in self._home.uploads.glob("*.part"):
            with contextlib.suppress(OSError):
                stat = part.stat()
                if part not in (writing or ()) and (stat.st_mtime < oldest or stat.st_size == 0):
                    part.unlink()


def disk_full(root: Path, coming: int, reserve: int) -> ApiError:
    free = shutil.disk_usage(root).free
    return ApiError(
        507,
        "disk_full",
        f"the server's disk has {free:,} bytes free; {coming:,} more and a reserve of {reserve:,} do not fit",
        remedy=f"free space on the disk of {root}",
    )


def _too_large(size: int, limit: int) -> ApiError:
    return ApiError(
        413,
        "clip_too_large",
        f"the clip has {size:,} bytes or more, this server takes {limit:,}",
        remedy="use fewer points or frames, or start the server with a larger --max-clip-mib",
    )


def _hash_file(path: Path) -> Any:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256")


async def _drain(body: AsyncIterator[bytes]) -> None:
    """Read on without keeping: a client that is still writing would otherwise see a broken pipe and no answer."""
    size = 0
    with contextlib.suppress(ClientDisconnect):
        async for chunk in body:
            size += len(chunk)
            if size > _DRAIN:
                return
