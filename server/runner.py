# SPDX-License-Identifier: Apache-2.0
"""Between the supervisor and whatever runs a worker: a process of this machine, an actor of a cluster.

The supervisor keeps one live worker at every :class:`Place` that the :class:`Runner` names and speaks to it through a
:class:`WorkerHandle` in the messages of :mod:`server.worker`. It never asks how or where a worker runs.

A ``run`` command names a clip and a folder of *this* machine. The handle sees to it that the worker can read the one,
and that all that the worker wrote is in the other before the handle passes on ``done`` (and ``preview.jpg`` before a
``progress`` that says there is one). A local process has the same disk, so there is nothing to do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Place:
    """Where one worker can run. Two places with the same ``id`` are the same place."""

    id: str
    """Also the name of its log: letters, digits, dots, dashes."""
    description: str
    """For people: 'process 0', 'GPU 1', 'node 10.0.0.2, GPU 1'."""
    environment: dict[str, str] = field(default_factory=dict, compare=False, hash=False)
    """Variables that tie the worker to its share of the machine."""


@dataclass(frozen=True)
class Exit:
    """How a worker ended."""

    reason: str
    """In words, to follow 'ended with': 'signal 9 (SIGKILL, ...)', 'the loss of node 10.0.0.2'."""
    blame: bool = True
    """Whether the job that it had may be the cause. A lost node is not held against it."""
    memory: bool = False
    """It looks like the system had run out of memory."""


class WorkerHandle(Protocol):
    """One live worker. It takes commands and gives messages, in order, until it is gone."""

    pid: int | None

    async def send(self, **command: Any) -> None:
        """Never fails: a worker that is gone is noticed by ``receive``."""

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None once the worker is gone. May be cancelled without losing one."""

    def kill(self) -> None:
        """End it at once. ``receive`` then comes to None."""

    async def end(self) -> Exit:
        """Make sure that it is gone and all that it said is read. Called once, also for one that is gone already."""

    def last_lines(self) -> list[str]:
        """The end of what it wrote to its log."""


class Runner(Protocol):
    def places(self) -> AsyncIterator[Sequence[Place]]:
        """All places there are, at once and again whenever they change. A place that is missing is given up: its
        worker is ended, and its job runs elsewhere."""

    async def start(self, place: Place) -> WorkerHandle:
        """Start a worker there. Its first message is ``ready``. Raises OSError with the reason where it cannot."""
