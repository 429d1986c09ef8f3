# SPDX-License-Identifier: Apache-2.0
"""The estimate of the time that is left, on a clock that the test turns."""

from __future__ import annotations

import pytest

from server.progress import USUAL_SHARE, Estimator


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(estimator: Estimator, clock: Clock, *steps: tuple[str, int, int, float]) -> None:
    for phase, step, total, seconds in steps:
        clock.now += seconds
        estimator.update(phase, step, total)


def test_first_job_of_a_model() -> None:
    """Nothing is claimed before a denoising step was measured; then steps count, without the slow first one."""
    clock = Clock()
    estimator = Estimator({}, clock=clock)
    run(estimator, clock, ("load", 0, 2, 0), ("load", 2, 2, 30), ("encode", 1, 1, 3), ("denoise", 0, 10, 1))
    assert estimator.eta_seconds() is None
    run(estimator, clock, ("denoise", 1, 10, 9), ("denoise", 2, 10, 2), ("denoise", 3, 10, 2))
    after = 20 / USUAL_SHARE["denoise"] * (USUAL_SHARE["decode"] + USUAL_SHARE["write"])
    assert estimator.eta_seconds() == pytest.approx(7 * 2 + after)
    clock.now += 1.5
    assert estimator.eta_seconds() == pytest.approx(7 * 2 + after - 1.5)


def test_later_jobs_use_what_was_measured() -> None:
    """With the phase times of an earlier job of 10 steps, one of 20 steps is foretold before it has begun."""
    history = {"load": (8.0, 2), "encode": (2.0, 1), "denoise": (30.0, 10), "decode": (6.0, 1), "write": (1.0, 1)}
    clock = Clock()
    estimator = Estimator(history, 20, clock)
    estimator.update("load", 0, 2)
    assert estimator.eta_seconds() == pytest.approx(8 + 2 + 60 + 6 + 1)
    run(estimator, clock, ("load", 2, 2, 8), ("encode", 1, 1, 2), ("denoise", 10, 20, 30))
    assert estimator.eta_seconds() == pytest.approx(30 + 6 + 1)
    assert estimator.fraction() == pytest.approx(40 / 77)


def test_decoding_begins_with_the_last_step() -> None:
    """A generator that reports decoding only when it is over is charged for it nevertheless."""
    clock = Clock()
    estimator = Estimator({}, clock=clock)
    run(estimator, clock, ("denoise", 0, 2, 0), ("denoise", 1, 2, 3), ("denoise", 2, 2, 3), ("decode", 1, 1, 5))
    run(estimator, clock, ("write", 1, 1, 1))
    estimator.end_phase()
    assert estimator.times["denoise"] == (6.0, 2)
    assert estimator.times["decode"] == (5.0, 1)
    assert estimator.times["write"] == (1.0, 1)


def test_fraction_never_falls_and_is_never_whole() -> None:
    clock = Clock()
    estimator = Estimator({}, clock=clock)
    seen = []
    for phase, step, total in (
        ("load", 2, 2),
        ("denoise", 5, 10),
        ("denoise", 4, 10),
        ("unheard of", 1, 9),
        ("denoise", 12, 10),
        ("decode", 1, 1),
        ("write", 1, 1),
    ):
        run(estimator, clock, (phase, step, total, 1))
        seen.append(estimator.fraction())
    assert seen == sorted(seen)
    assert seen[-1] == 0.99
