# SPDX-License-Identifier: Apache-2.0
"""The client: one method for each thing that the server does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .errors import ClientError, JobFailed, NotFound, Refused, Unreachable
from .home import Address, default_home, read_address, trust
from .transport import Transport
from .types import Event, GenerationRequest, Health, Job, JobPage, Model, Progress, read

_BLOCK = 256 * 1024
_STALLED_SECONDS = 5.0
OnFraction = Callable[[float], None]


class Client:
    """One server. Not for several threads at once: give each its own.

    ``patience``: so many seconds every call waits for a server that is away (being restarted, say) before it raises
    :class:`Unreachable`. ``certificate``: PEM file of the authority, or of the server itself, where the system does not
    trust it already.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        certificate: str | os.PathLike[str] | None = None,
        patience: float = 10.0,
        name: str = "python",
    ) -> None:
        context = trust(Path(certificate).read_text("utf-8"), check_name=True) if certificate else None
        address = Address(url.rstrip("/"), token.strip(), context)
        self._setup(lambda: address, patience, name)

    @classmethod
    def at_home(
        cls, home: str | os.PathLike[str] | None = None, *, patience: float = 10.0, name: str = "python"
    ) -> Client:
        """The server of this machine that uses the folder ``home`` (its default one), wherever it listens."""
        client = cls.__new__(cls)
        folder = Path(home) if home is not None else default_home()
        client._setup(lambda: read_address(folder), patience, name)
        return client

    def _setup(self, locate: Callable[[], Address], patience: float, name: str) -> None:
        self._transport = Transport(locate, patience)
        self._name = name

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # what there is

    def health(self) -> Health:
        return self._get(Health, "health")

    def ready(self) -> list[str]:
        """Why the server is not ready for jobs; empty where it is."""
        try:
            self._transport.request("GET", "health/ready")
        except ClientError as error:
            if error.status == 503 or isinstance(error, Unreachable):
                return [error.message]
            raise
        return []

    def models(self) -> list[Model]:
        return [read(Model, model) for model in self._transport.json("GET", "models")["models"]]

    def metrics(self) -> str:
        """Prometheus' text format."""
        return self._transport.patiently(lambda: self._transport.request("GET", "metrics")).text

    # clips

    def has_clip(self, sha256: str) -> bool:
        return self._offset(sha256) is None

    def upload(self, clip: str | os.PathLike[str] | bytes, on_progress: OnFraction | None = None) -> str:
        """Bring a clip to the server, or what it lacks of it. Returns its SHA-256, for a GenerationRequest."""
        data = clip if isinstance(clip, bytes) else Path(clip).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        failures = 0
        last, since = -1, time.monotonic()
        while (offset := self._offset(sha256)) is not None:
            if offset != last:
                last, since, failures = offset, time.monotonic(), 0
            try:
                self._send(sha256, data, offset, on_progress)
            except Unreachable:
                failures += 1
                if failures > 5:
                    raise
            except Refused as error:
                if error.code not in ("upload_taken_over", "wrong_offset", "too_many_uploads"):
                    raise
                if error.code == "upload_taken_over":
                    self._wait_for_the_other(sha256)
                elif time.monotonic() - since > 60:
                    raise
                else:
                    time.sleep(0.5)
        if on_progress is not None:
            on_progress(1.0)
        return sha256

    def _offset(self, sha256: str) -> int | None:
        """Bytes of the clip that are there, None: all of them."""
        try:
            self._transport.patiently(lambda: self._transport.request("HEAD", f"clips/{sha256}"))
        except NotFound as error:
            return int(error.headers.get("upload-offset", "0"))
        return None

    def _send(self, sha256: str, data: bytes, offset: int, on_progress: OnFraction | None) -> None:
        def pieces() -> Iterator[bytes]:
            for start in range(offset, len(data), _BLOCK):
                yield data[start : start + _BLOCK]
                if on_progress is not None:
                    on_progress(min(1.0, (start + _BLOCK) / len(data)))

        headers = {"Content-Length": str(len(data) - offset), "Content-Type": "application/octet-stream"}
        if offset:
            headers |= {"Upload-Offset": str(offset), "Upload-Length": str(len(data))}
        self._transport.request("PATCH" if offset else "PUT", f"clips/{sha256}", content=pieces(), headers=headers)

    def _wait_for_the_other(self, sha256: str) -> None:
        """Somebody else sends the same clip: let them, as long as they get on."""
        last, since = -1, time.monotonic()
        while time.monotonic() - since < _STALLED_SECONDS:
            offset = self._offset(sha256)
            if offset is None:
                return
            if offset != last:
                last, since = offset, time.monotonic()
            time.sleep(0.5)

    # jobs

    def submit(
        self, request: GenerationRequest, *, id: str | None = None, label: str | None = None, priority: int = 0
    ) -> Job:
        """Queue a job. With an ``id`` (a UUID) of your own it can be sent again: the same id is the same job."""
        body = {
            "id": id or str(uuid.uuid4()),
            "request": request.to_json(),
            "label": label,
            "client": self._name,
            "priority": priority,
        }
        return read(Job, self._transport.json("POST", "jobs", json=body))

    def job(self, id: str) -> Job:
        return self._get(Job, f"jobs/{id}")

    def page(self, states: Sequence[str] = (), limit: int = 100, before: str | None = None) -> JobPage:
        """The newest jobs; ``before`` is ``next`` of the page before."""
        params: dict[str, Any] = {"state": list(states), "limit": limit}
        if before is not None:
            params["before"] = before
        return self._get(JobPage, "jobs", params=params)

    def jobs(self, states: Sequence[str] = ()) -> Iterator[Job]:
        """All jobs, the newest first, fetched as they are asked for."""
        before: str | None = None
        while True:
            page = self.page(states, 100, before)
            yield from page.jobs
            before = page.next
            if before is None:
                return

    def cancel(self, id: str) -> Job:
        return read(Job, self._transport.json("POST", f"jobs/{id}/cancel"))

    def move(self, id: str, position: int) -> Job:
        """Give a queued job another place among this client's; 0 is next."""
        return read(Job, self._transport.json("POST", f"jobs/{id}/move", json={"position": position}))

    def delete(self, id: str) -> None:
        """Remove a finished job with its result, for good."""
        self._transport.json("DELETE", f"jobs/{id}")

    # following

    def events(self, since: int | None = None, job: str | None = None) -> Iterator[Event]:
        """Everything that happens after event ``since`` (None: from now on), without an end.

        A broken stream is taken up where it ended. Event types: see :class:`Event`.
        """
        if since is None:
            since = self.page(limit=1).last_event
        while True:
            try:
                for event in self._open(since, job):
                    since = event.id
                    yield event
            except Unreachable:
                time.sleep(0.2)
                self._transport.patiently(lambda: self._transport.request("GET", "health/live"))

    def _open(self, since: int, job: str | None) -> Iterator[Event]:
        params: dict[str, Any] = {"since": since} | ({"job": job} if job else {})
        with self._transport.stream("GET", "events", params=params) as answer:
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(":")
                if name:
                    fields[name] = value.removeprefix(" ")
                elif not line and "data" in fields:
                    data = json.loads(fields["data"])
                    yield Event(int(fields["id"]), fields["event"], data.get("id"), data)
                    fields = {}
        raise Unreachable("the server has ended the stream")

    def follow(self, id: str) -> Iterator[Job]:
        """A job as it is now and at every change, to its end, over restarts of the server."""
        since = self.page(limit=1).last_event
        job = self.job(id)
        yield job
        if job.finished:
            return
        for event in self.events(since, id):
            if event.type == "job":
                job = read(Job, event.data)
            elif event.type == "progress":
                job = replace(job, progress=read(Progress, event.data["progress"]))
            elif event.type == "deleted":
                raise NotFound(f"the job {id} was deleted", code="job_not_found", status=404)
            else:
                job = self.job(id)
            yield job
            if job.finished:
                return

    def wait(self, id: str, on_update: Callable[[Job], None] | None = None) -> Job:
        """The job when it is done. Raises JobFailed where it ends otherwise."""
        job = self.job(id)
        for job in self.follow(id):
            if on_update is not None:
                on_update(job)
        if job.state == "done":
            return job
        if job.error is not None:
            raise JobFailed(f"the job failed: {job.error.message}", job.error.remedy, code=job.error.code)
        raise JobFailed(f"the job was {job.state}", code=job.state)

    # results

    def download(self, id: str, name: str, target: str | os.PathLike[str]) -> Path:
        """Fetch ``video.mp4``, ``scene.mp4``, ``metadata.json`` or ``preview.jpg`` of a job.

        The file is there whole or not at all; a broken connection is gone on with.
        """
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        etag: list[str] = []
        try:
            part.touch()
            self._transport.patiently(lambda: self._fetch(f"jobs/{id}/{name}", part, etag))
            os.replace(part, path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
        return path

    def _fetch(self, path: str, part: Path, etag: list[str]) -> None:
        here = max(0, part.stat().st_size - 1) if etag else 0  # one byte less: a range cannot be empty
        headers = {"Range": f"bytes={here}-", "If-Range": etag[0]} if here else {}
        with self._transport.stream("GET", path, headers=headers) as answer:
            etag[:] = [answer.headers.get("etag", "")]
            os.truncate(part, here)
            with open(part, "ab" if answer.status_code == 206 else "wb") as file:
                for block in answer.iter_bytes():
                    file.write(block)

    def _get(self, kind: type, path: str, **arguments: Any) -> Any:
        try:
            return read(kind, self._transport.json("GET", path, **arguments))
        except ValueError as error:
            raise ClientError(
                f"the server's answer cannot be read ({error})", "use the client and the server of the same release"
            ) from None
