# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: the rule of server/scheduler.py, on the real job table, with workers on a clock the test turns."""

from __future__ import annotations

import heapq
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from server.scheduler import LOADS, LONGEST, Scheduler
from server.schemas import JobState
from server.store import Store

from .serverkit import folder_in_memory

LOAD = {"small": 1.0, "large": 10.0, "huge": 1000.0}
"""Seconds that loading takes."""


@dataclass(frozen=True)
class Arrival:
    time: float
    owner: str
    seconds: int
    model: str = "small"
    priority: int = 0


@dataclass(frozen=True)
class Run:
    job: str
    owner: str
    model: str
    seconds: float
    arrived: float
    began: float
    loaded: bool


@pytest.fixture
def store() -> Iterator[Store]:
    """With what models take: a second a step, and their loading times. In memory: these tests commit very often."""
    with folder_in_memory() as folder:
        store = Store(folder / "jobs.sqlite3")
        for model, seconds in LOAD.items():
            store.remember_phase_times(model, {"load": (seconds, 1), "denoise": (1.0, 1)})
        yield store
        store.close()


def add(store: Store, owner: str, seconds: int = 1, model: str = "small", priority: int = 0) -> str:
    job = str(uuid.uuid4())
    request = {"model": model, "clip": "0" * 64, "num_inference_steps": seconds}
    store.add(job, job, request, None, owner, priority)
    return job


def simulate(store: Store, arrivals: list[Arrival], workers: int = 1, until: float = 1e9, error: float = 1.0):
    """Give every job to one of ``workers`` as the server does; it takes ``error`` times what was to be expected."""
    scheduler = Scheduler(store)
    loaded: list[str | None] = [None] * workers
    idle = set(range(workers))
    busy: list[tuple[float, int, str, float]] = []
    todo = sorted(arrivals, key=lambda arrival: arrival.time)
    arrived: dict[str, float] = {}
    runs: list[Run] = []
    now = 0.0
    while now <= until:
        while todo and todo[0].time <= now:
            a = todo.pop(0)
            arrived[add(store, a.owner, a.seconds, a.model, a.priority)] = a.time
        while busy and busy[0][0] <= now:
            _, worker, job, seconds = heapq.heappop(busy)
            store.set_state(job, JobState.DONE, outcome="done", seconds=seconds)
            idle.add(worker)
        while idle:
            order = sorted(idle)
            choice = scheduler.choose([loaded[n] for n in order])
            if choice is None:
                break
            worker = order[choice.worker]
            taken = store.take(choice.job, choice.charge, f"process {worker}", choice.passed)
            model, seconds = taken.request["model"], taken.request["num_inference_steps"] * error
            load = LOAD.get(model, 0.0) if loaded[worker] != model else 0.0
            since = arrived.get(taken.id, 0.0)
            runs.append(Run(taken.id, choice.job.owner, model, seconds, since, now, load > 0))
            loaded[worker] = model
            idle.remove(worker)
            heapq.heappush(busy, (now + load + seconds, worker, taken.id, seconds))
        times = [arrival.time for arrival in todo[:1]] + [entry[0] for entry in busy[:1]]
        if not times:
            break
        now = min(times)
    assert len({run.job for run in runs}) == len(runs), "given out once"
    return runs


def work_before(runs: list[Run], run: Run) -> dict[str, float]:
    """Seconds of each other client's jobs that began between the arrival and the beginning of ``run``."""
    ahead: dict[str, float] = defaultdict(float)
    for other in runs[: runs.index(run)]:
        if other.owner != run.owner and other.began >= run.arrived:
            ahead[other.owner] += other.seconds
    return ahead


@pytest.mark.parametrize("error", [1.0, 0.02, 3.0])
@pytest.mark.parametrize("workers", [1, 4])
def test_second_client_is_next_while_another_has_queued_1000(store: Store, workers: int, error: float) -> None:
    """One model: whenever the newcomer comes, its job is the next to be given out, also if estimates are far off."""
    for _ in range(1000):
        add(store, "many", 2)
    times = np.random.default_rng(0).choice(np.arange(50, 400), 15, replace=False)
    few = [Arrival(float(t) * error + 0.001, "few", 3) for t in times if error <= 1 or t % 20 > 9]
    runs = simulate(store, few, workers, until=420 * error, error=error)
    mine = [run for run in runs if run.owner == "few"]
    assert len(mine) == len(few) >= 5
    for n, run in enumerate(mine):
        own_wait = n and mine[n - 1].began + mine[n - 1].seconds > run.arrived  # behind a job of its own
        if not own_wait:
            assert work_before(runs, run) == {}
            assert run.began - run.arrived <= 2 * error + 1e-9, "only the rest of a job that was running"
    assert sum(run.owner == "many" for run in runs) > 150


@pytest.mark.parametrize("seed", range(8))
def test_no_wait_is_longer_than_the_rule_says(store: Store, seed: int) -> None:
    """Random clients, models, lengths, workers: a newcomer lets at most allowance + L seconds of each other pass."""
    rng = np.random.default_rng(seed)
    workers, clients, longest = int(rng.integers(1, 5)), int(rng.integers(2, 6)), int(rng.integers(2, 30))
    models = ["small", "large"][: int(rng.integers(1, 3))]
    arrivals = [
        Arrival(
            float(rng.uniform(0, 300) * (rng.random() < 0.7)),
            f"c{rng.integers(clients)}",
            int(rng.integers(1, longest + 1)),
            str(rng.choice(models)),
        )
        for _ in range(120)
    ] + [Arrival(float(rng.uniform(50, 250)), "newcomer", 2, str(rng.choice(models)))]
    runs = simulate(store, arrivals, workers)
    assert len(runs) == len(arrivals), "none is lost"
    newcomer = next(run for run in runs if run.owner == "newcomer")
    ahead = work_before(runs, newcomer)
    for owner, seconds in ahead.items():
        assert seconds <= LOADS * LOAD[newcomer.model] + longest, owner


@pytest.mark.parametrize("workers", [1, 3])
def test_equal_shares_between_clients_that_always_wait(store: Store, workers: int) -> None:
    """Long jobs against short ones, 600 against 60: every client gets the same worker seconds, within the allowance."""
    lengths = {"short": 1, "middle": 7, "long": 20}
    for owner, seconds in lengths.items():
        for _ in range(600 // seconds):
            add(store, owner, seconds)
    used: dict[str, float] = dict.fromkeys(lengths, 0.0)
    for run in simulate(store, [], workers, until=900 / workers):
        used[run.owner] += run.seconds
        assert max(used.values()) - min(used.values()) <= LOADS * LOAD["small"] + 20, run
    assert min(used.values()) > 250


def test_idle_time_is_no_credit_and_past_use_no_debt(store: Store) -> None:
    """Both come back after one of them had the machine to itself: they take turns at once."""
    history = [Arrival(float(n), "worked", 10) for n in range(50)]
    both = [Arrival(2000.0 + n / 100, owner, 5) for n in range(20) for owner in ("rested", "worked")]
    runs = [run for run in simulate(store, history + both) if run.began >= 2000]
    assert len(runs) == 40
    for n in range(1, 41):
        share = sum(run.owner == "rested" for run in runs[:n])
        assert abs(share - n / 2) <= 1


def test_models_are_grouped_within_the_allowance(store: Store) -> None:
    """Two clients with a model each, and one who alternates: few loads, and no turn is passed over for too long."""
    for n in range(60):
        add(store, "a", 4, "small")
        add(store, "b", 4, "large")
        add(store, "c", 4, ("small", "large")[n % 2])
    runs = simulate(store, [])
    assert len(runs) == 180
    loads = sum(run.loaded for run in runs)
    taking_turns = 120  # what strict turns would load
    assert loads < taking_turns / 3
    used: dict[str, float] = dict.fromkeys("abc", 0.0)
    for run in runs[:150]:
        used[run.owner] += run.seconds
        assert max(used.values()) - min(used.values()) <= LOADS * LOAD["large"] + 4


def test_one_client_with_two_models_does_not_load_for_every_job(store: Store) -> None:
    """The first in its queue is overtaken by no more than the allowance and one job."""
    queue = [add(store, "a", 5, ("small", "large")[n % 2]) for n in range(80)]
    runs = simulate(store, [])
    assert sum(run.loaded for run in runs) <= 24  # strictly in order: 80
    place = {job: n for n, job in enumerate(queue)}
    for n, run in enumerate(runs):
        overtook = [other for other in runs[:n] if place[other.job] > place[run.job]]
        assert sum(other.seconds for other in overtook) <= LOADS * LOAD[run.model] + 5


def test_a_model_that_loads_for_ever_does_not_wait_for_ever(store: Store) -> None:
    for _ in range(1000):
        add(store, "many", 10, "small")
    runs = simulate(store, [Arrival(100.0, "one", 1, "huge")], until=1200)
    one = next(run for run in runs if run.owner == "one")
    assert 100 < work_before(runs, one)["many"] <= LONGEST + 10


def test_priority_orders_one_clients_jobs_and_not_the_clients(store: Store) -> None:
    a = [add(store, "a", 1, priority=p) for p in (0, -5, 10, 0)]
    b = [add(store, "b", 1) for _ in range(3)]
    runs = [run.job for run in simulate(store, [])]
    assert [job for job in runs if job in a] == [a[2], a[0], a[3], a[1]]
    assert {runs.index(job) // 2 for job in b} == {0, 1, 2}, "every second turn"


def test_a_moved_job_is_not_overtaken_for_a_models_sake(store: Store) -> None:
    first = add(store, "a", 1, "small")
    for _ in range(5):
        add(store, "a", 1, "small")
    large = add(store, "a", 1, "large")
    assert store.move(large, 1)
    assert [run.job for run in simulate(store, [])][:2] == [first, large]


def test_moving_takes_on_the_priority_of_the_place(store: Store) -> None:
    jobs = [add(store, "a", priority=p) for p in (5, 5, 0, 0)]
    foreign = add(store, "b")
    for job, position in ((jobs[3], 0), (jobs[0], 2)):
        assert store.move(job, position)
        before = [store.view(j) for j in jobs]
    order = [run.job for run in simulate(store, []) if run.job != foreign]
    assert order == [jobs[3], jobs[1], jobs[0], jobs[2]]
    assert [view.priority for view in before if view] == [5, 5, 0, 5]
    assert not store.move(jobs[0], 0), "it is not queued any more"


def test_shown_places_are_the_order_of_running(store: Store) -> None:
    """Jobs of one length and model: the places foretold for everyone's jobs are the order in which they then run."""
    rng = np.random.default_rng(4)
    simulate(store, [Arrival(0.0, owner, 6) for owner in ("a", "b", "b", "c")])
    store.typical_seconds = 6.0
    jobs = [add(store, str(rng.choice(["a", "b", "c", "d"], p=[0.6, 0.2, 0.1, 0.1])), 6) for _ in range(60)]
    listed = {view.id: view.queue_position for view in store.views([JobState.QUEUED], 100, None)}
    assert sorted(listed.values()) == list(range(60))
    for job in jobs[::7]:
        view = store.view(job)
        assert view is not None and view.queue_position == listed[job]
    ran = [run.job for run in simulate(store, [])]
    for job in jobs:  # clients on a tie may change places with each other, once a round
        assert abs(ran.index(job) - listed[job]) <= 3


def test_shares_survive_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite3")
    for owner in "aab":
        add(store, owner)
    choice = Scheduler(store).choose([None])
    assert choice is not None and choice.job.owner == "a"
    store.take(choice.job, 50.0, "process 0")
    store.close()
    store = Store(tmp_path / "jobs.sqlite3")
    assert [(share.owner, share.used) for share in store.waiting_clients()] == [("b", 0.0), ("a", 50.0)]
    store.set_state(choice.job.id, JobState.QUEUED, outcome="lost", seconds=0.0)
    assert {share.owner: share.used for share in store.waiting_clients()} == {"a": 0.0, "b": 0.0}
    assert {share.owner: share.queued for share in store.waiting_clients()} == {"a": 2, "b": 1}
    store.close()


def test_starts_alternate(store: Store) -> None:
    for _ in range(6):
        add(store, "a")
        add(store, "b")
    owners = [run.owner for run in simulate(store, [])]
    assert all(x != y for x, y in pairwise(owners))
