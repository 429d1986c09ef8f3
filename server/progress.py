# SPDX-License-Identifier: Apache-2.0
"""How far a job is and how long it will still take, from the times its steps have taken so far.

A job goes through PHASES in order; each reports (step, total). The running phase is extrapolated from its own steps;
the phases still to come are taken from the last finished job of the same model, or, where there is none yet, from the
usual ratio between them and denoising.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

PHASES = ("load", "encode", "denoise", "decode", "write")
USUAL_SHARE = {"load": 0.06, "encode": 0.06, "denoise": 0.75, "decode": 0.12, "write": 0.01}
_ALMOST = 0.99  # the last hundredth is the result being on disk


class Estimator:
    """One job. ``history``: phase -> (seconds, steps) of an earlier one; ``denoise_steps``: of this one, if known."""

    def __init__(
        self,
        history: Mapping[str, tuple[float, int]],
        denoise_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._measured = "denoise" in history
        self._expected = dict(USUAL_SHARE)  # seconds where measured, else mere shares
        self._denoise_step = 0.0
        if self._measured:
            self._expected = {phase: history.get(phase, (0.0, 1))[0] for phase in PHASES}
            self._denoise_step = history["denoise"][0] / history["denoise"][1]
            if denoise_steps:
                self._expected["denoise"] = self._denoise_step * denoise_steps
        self._phase = PHASES[0]
        self._entered = clock()
        self._step, self._total = 0, 1
        self._first: tuple[float, int] | None = None  # when the phase's first step was over, and its number
        self._latest: tuple[float, int] | None = None
        self._fraction = 0.0
        self.times: dict[str, tuple[float, int]] = {}
        """Phases that are over: (seconds, steps)."""

    def update(self, phase: str, step: int, total: int) -> None:
        """``step`` of ``total`` steps are over. A phase that is not in PHASES counts as part of the one before."""
        if phase not in PHASES:
            return
        if phase != self._phase:
            self._entered = self.end_phase()
            self._phase, self._first, self._latest = phase, None, None
        self._total = max(1, total)
        if phase == "denoise" and self._measured:
            self._expected[phase] = self._denoise_step * self._total
        self._step = min(max(0, step), self._total)
        if self._step > 0 and (self._latest is None or self._step > self._latest[1]):
            self._latest = (self._clock(), self._step)
            self._first = self._first or self._latest

    def end_phase(self) -> float:
        """Close the running phase; the time at which it was over. What follows its last step is the next phase's."""
        over = self._latest[0] if self._latest is not None and self._step == self._total else self._clock()
        self.times[self._phase] = (over - self._entered, self._total)
        return over

    def _seconds_per_step(self) -> float | None:
        """Without the first step, which warms up, as soon as there is another one."""
        if self._latest is None or self._first is None:
            return None
        (start, first), (end, last) = self._first, self._latest
        if last > first:
            return (end - start) / (last - first)
        return (end - self._entered) / last

    def eta_seconds(self) -> float | None:
        """None where nothing measured tells."""
        now = self._clock()
        per_step = self._seconds_per_step()
        if self._step == self._total and self._latest is not None:
            rest = self._latest[0] - now  # the next phase has begun, without having said so
        elif per_step is not None and self._latest is not None:
            rest = max(0.0, per_step * (self._total - self._step) - (now - self._latest[0]))
        elif self._measured:
            rest = max(0.0, self._expected[self._phase] - (now - self._entered))
        else:
            return None
        later = PHASES[PHASES.index(self._phase) + 1 :]
        if self._measured:
            return max(0.0, rest + sum(self._expected[phase] for phase in later))
        if "denoise" in self.times:
            denoise = self.times["denoise"][0]
        elif self._phase == "denoise" and per_step is not None:
            denoise = per_step * self._total
        else:
            return None
        return max(0.0, rest + denoise / USUAL_SHARE["denoise"] * sum(USUAL_SHARE[phase] for phase in later))

    def fraction(self) -> float:
        """0 to below 1, never going back."""
        index = PHASES.index(self._phase)
        done = sum(self._expected[phase] for phase in PHASES[:index])
        done += self._expected[self._phase] * self._step / self._total
        everything = sum(self._expected.values())
        if everything > 0:
            self._fraction = max(self._fraction, min(_ALMOST, done / everything))
        return self._fraction

    def snapshot(self, phase: str, step: int, total: int, preview: bool) -> dict[str, Any]:
        """What clients are told, see :class:`server.schemas.Progress`."""
        eta = self.eta_seconds()
        return {
            "phase": phase,
            "step": step,
            "total": total,
            "fraction": round(self.fraction(), 4),
            "eta_seconds": None if eta is None else round(eta, 1),
            "preview": preview,
        }
