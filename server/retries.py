# SPDX-License-Identifier: Apache-2.0
"""What becomes of a job whose attempt did not end as it should: again, again with less memory, or failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.failures import SMALLER, failure
from server.runner import Exit

Ladder = Sequence[Sequence[str]]
"""Memory modes from the fastest to the smallest; each rung a list of mode names, the first usually empty."""


@dataclass(frozen=True)
class Again:
    rung: int
    note: str
    crashed: bool


@dataclass(frozen=True)
class GiveUp:
    error: dict[str, Any]


@dataclass(frozen=True)
class Limits:
    crashes: int
    """A job may take so many workers down and still be started again."""
    attempts: int
    """Whatever the reasons were: a job that takes its machine down must not do so for ever."""


def name_of(modes: Sequence[str]) -> str:
    return " + ".join(modes) if modes else "full memory"


def after_out_of_memory(error: dict[str, Any], rung: int, ladder: Ladder, mode: str | None = None) -> Again | GiveUp:
    """``error`` as the worker describes it; ``mode``: what the generator had chosen, where it was left to it."""
    rung = max([rung, *(n for n, modes in enumerate(ladder) if mode is not None and list(modes) == [mode])])
    if rung + 1 < len(ladder):
        tried, smaller = mode or name_of(ladder[rung]), name_of(ladder[rung + 1])
        return Again(rung + 1, f"out of memory with {tried}; started again with {smaller}", crashed=False)
    if len(ladder) > 1:
        tried = ", ".join(name_of(modes) for modes in ladder)
        error = {
            **error,
            "message": f"{error['message']} (tried in turn: {tried})",
            "remedy": "use fewer frames or a smaller model, or close other programs that use the same memory",
        }
    return GiveUp(error)


def after_loss(
    end: Exit, hung: str | None, attempt: int, crashes: int, rung: int, ladder: Ladder, limits: Limits, log: list[str]
) -> Again | GiveUp:
    """The worker is gone. ``crashes``: workers lost before; ``hung``: where it stood still, if it was."""
    what = f"it made no progress {hung} and was stopped" if hung else f"its worker ended with {end.reason}"
    if attempt >= limits.attempts:
        return GiveUp(failure("too_many_attempts", f"started {attempt} times without an end; at last {what}", log=log))
    if not end.blame and hung is None:
        return Again(rung, f"{what}; started again", crashed=False)
    if crashes >= limits.crashes:
        times = f"{crashes + 1} times" if crashes else "once"
        if hung:
            return GiveUp(
                failure(
                    "worker_hung",
                    f"the worker was lost while generating, {times}; the last time it made no progress {hung}",
                    "look at the last lines of the worker's log; if a step simply takes longer, start the server "
                    "with a larger --hang-seconds",
                    log,
                )
            )
        return GiveUp(
            failure(
                "worker_died",
                f"the worker process ended while generating, {times}; the last time with {end.reason}",
                SMALLER if end.memory else "look at the last lines of the worker's log",
                log,
            )
        )
    if end.memory and crashes and hung is None and rung + 1 < len(ladder):  # twice is no accident any more
        rung += 1
        return Again(rung, f"{what}; started again with {name_of(ladder[rung])}", crashed=True)
    return Again(rung, f"{what}; started again", crashed=True)
