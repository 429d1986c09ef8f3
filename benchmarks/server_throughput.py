# SPDX-License-Identifier: Apache-2.0
"""How much several workers make beside one, and what limits a thousand GPUs.

    .venv/bin/python benchmarks/server_throughput.py --workers 2 --jobs 4 --rounds 3
    .venv/bin/python benchmarks/server_throughput.py --only-costs
    .venv/bin/python benchmarks/server_throughput.py --only-nodes --nodes 2

First the same jobs with the same model by one worker with one thread, by one worker with all cores and by k workers
that share them, each with its model loaded, from the first job's start to the last one's end. With ``--nodes``
(or ``--only-nodes``) the same on a Ray cluster whose nodes are process groups of this machine with one core each: one
process without Ray, one node, and k nodes.

Then what the server itself costs: jobs that take no time, with few and with many progress reports, give its processor
time per job and per report, and how long a worker stands idle between two jobs. From these follows the share of one
core that N GPUs would need, and a simulation of N workers at one server (each served in turn, as one event loop does)
gives the share of time that the GPUs then stand idle.
"""

from __future__ import annotations

import argparse
import heapq
import os
import statistics
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from servers import ROOT, Server, cpu_seconds, make_clip, running_server

from server.scheduler import Scheduler
from server.slot import REPORTS_A_SECOND
from server.store import Store


def throughput(model: str, workers: int, threads: int, jobs: int, steps: int | None, *more: str) -> tuple[float, float]:
    """(jobs a minute, seconds per job as each worker sees it)."""
    arguments = ("--model", model, "--workers", str(workers), "--preload", *more)
    with running_server(*arguments, OMP_NUM_THREADS=str(threads)) as server:
        ids = server.wait_for_workers(workers, server.get("/v1/health")["default_model"])
        assert len(ids) == workers
        clip = server.upload(make_clip())
        server.wait(*(server.submit(clip, seed=n, num_inference_steps=1) for n in range(workers)))
        views = server.wait(*(server.submit(clip, seed=n, num_inference_steps=steps) for n in range(jobs)))
        span = max(view["finished_at"] for view in views) - min(view["started_at"] for view in views)
        alone = statistics.median(view["finished_at"] - view["started_at"] for view in views)
    return 60 * jobs / span, alone


def print_nodes(model: str, nodes: int, jobs: int, steps: int | None) -> None:
    """Beside one process of this machine, in the same run: what the way over Ray costs, and what k nodes make."""
    sys.path.insert(0, str(ROOT))
    from tests.server.raykit import RayCluster

    print(f"{jobs} jobs, {os.cpu_count()} cores\n| where | workers | jobs a minute | s per job | x the node |")
    print("|---|---|---|---|---|")
    rows = [("one process, without Ray", 1, throughput(model, 1, 1, jobs, steps))]
    with tempfile.TemporaryDirectory(prefix="hvg3d-bench-") as folder, RayCluster(Path(folder)) as cluster:
        for count in dict.fromkeys((1, nodes)):
            while len(cluster.nodes) < count:
                cluster.add_node(1)
            made = throughput(model, count, 1, jobs, steps, "--ray", cluster.address)
            rows.append((f"Ray, {count} node{'s' if count > 1 else ''} of one core", count, made))
    for where, workers, (rate, seconds) in rows:
        print(f"| {where} | {workers} | {rate:.2f} | {seconds:.2f} | {rate / rows[1][2][0]:.2f} |")


def one_round(server: Server, clip: str, jobs: int, steps: int | None, seed: int) -> float:
    """Jobs a minute, from the first one's start to the last one's end."""
    views = server.wait(*(server.submit(clip, seed=seed + n, num_inference_steps=steps) for n in range(jobs)))
    return 60 * jobs / (max(view["finished_at"] for view in views) - min(view["started_at"] for view in views))


def print_throughput(model: str, k: int, jobs: int, steps: int | None, rounds: int) -> None:
    """All servers are there all the time, one of them works; they take turns, and ratios are those of a round."""
    cores = os.cpu_count() or 1
    rates: list[list[float]] = []
    with ExitStack() as stack:
        servers = []
        kinds = [(1, 1), (1, cores), (k, cores)]
        for workers, threads in kinds:
            arguments = ("--model", model, "--workers", str(workers), "--preload")
            server = stack.enter_context(running_server(*arguments, OMP_NUM_THREADS=str(threads)))
            server.wait_for_workers(workers, server.get("/v1/health")["default_model"])
            clip = server.upload(make_clip())
            one_round(server, clip, 2 * workers, 1, 1000)
            servers.append((server, clip))
        for n in range(rounds):
            rates.append([one_round(server, clip, jobs, steps, n * jobs) for server, clip in servers])
    print(f"{rounds} rounds of {jobs} jobs each, {cores} cores; medians")
    print("| workers | threads each | jobs a minute | x the first |\n|---|---|---|---|")
    for n, (workers, threads) in enumerate(kinds):
        rate = statistics.median(row[n] for row in rates)
        ratio = statistics.median(row[n] / row[0] for row in rates)
        print(f"| {workers} | {max(1, threads // workers)} | {rate:.2f} | {ratio:.2f} |", flush=True)
    print()


@dataclass(frozen=True)
class Cost:
    """Of one job: processor seconds of the server, and what a worker waits between two."""

    cpu: float
    idle: float


def cost_of_jobs(jobs: int, reports: int) -> Cost:
    """With one worker, and one client that listens to every event. Reports come at most ten a second."""
    seconds = reports * 0.11 if reports > 1 else 0.0
    environment = {"HVG3D_BENCH_STEPS": str(reports), "HVG3D_BENCH_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"}
    with running_server("--model", "instant", "--backend", "instant_backend", **environment) as server:
        server.wait_for_workers(1)
        clip = server.upload(make_clip())
        server.wait(server.submit(clip))
        before, began = cpu_seconds(server.process.pid), time.perf_counter()
        server.wait(*(server.submit(clip, seed=n) for n in range(jobs)))
        took = time.perf_counter() - began
        return Cost((cpu_seconds(server.process.pid) - before) / jobs, took / jobs - seconds)


def cost_of_choosing(queued: int, clients: int, choices: int = 200) -> float:
    """Seconds to choose the next job and to note that it runs."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        store = Store(Path(folder) / "jobs.sqlite3")
        for n in range(queued):
            request = {"model": f"m{n % 2}", "clip": "0" * 64, "num_inference_steps": 50}
            store.add(str(uuid.uuid4()), "", request, None, f"client {n % clients}")
        scheduler = Scheduler(store)
        began = time.perf_counter()
        for _ in range(choices):
            choice = scheduler.choose(["m0"])
            assert choice is not None
            store.take(choice.job, choice.charge, "GPU 0", choice.passed)
        took = (time.perf_counter() - began) / choices
        store.close()
    return took


def simulate(gpus: int, job_seconds: float, serve_seconds: float, jobs_each: int = 20) -> float:
    """The share of their time that ``gpus`` stand idle, when one server serves them in turn after every job.

    Job lengths are spread by a tenth, as real ones are; a job's reports are added to its service at its end.
    """
    rng = np.random.default_rng(0)
    begins = rng.uniform(0, job_seconds, gpus)
    ends = [(float(begin), n) for n, begin in enumerate(begins)]
    heapq.heapify(ends)
    free = worked = 0.0
    for _ in range(gpus * jobs_each):
        now, gpu = heapq.heappop(ends)
        free = max(free, now) + serve_seconds
        length = max(0.0, float(rng.normal(job_seconds, job_seconds / 10)))
        worked += length
        heapq.heappush(ends, (free + length, gpu))
    return 1 - worked / (sum(end for end, _ in ends) - float(begins.sum()))


def print_costs(jobs: int) -> None:
    few, many = cost_of_jobs(jobs, 1), cost_of_jobs(max(4, jobs // 15), 50)
    report = max(0.0, (many.cpu - few.cpu) / 49)
    print("| what the server costs | ms |\n|---|---|")
    print(f"| processor time per job | {1e3 * few.cpu:.2f} |")
    print(f"| processor time per progress report, with one listener | {1e3 * report:.3f} |")
    print(f"| a worker between two jobs, everything on disk | {1e3 * few.idle:.1f} |")
    for queued, clients in ((1000, 8), (10_000, 8), (10_000, 100)):
        cost = cost_of_choosing(queued, clients)
        print(f"| to choose among {queued:,} jobs of {clients} clients | {1e3 * cost:.3f} |")
    print("\n| GPUs | seconds per job | reports | share of a core | GPUs idle, simulated | and between jobs |")
    print("|---|---|---|---|---|---|")
    for gpus, seconds, reports in ((8, 60, 50), (100, 60, 50), (1000, 60, 50), (1000, 300, 50), (1000, 10, 10)):
        reports = min(reports, round(seconds * REPORTS_A_SECOND / gpus))  # the server asks many workers for fewer
        per_job = few.cpu + reports * report
        load = gpus * per_job / seconds
        idle = simulate(gpus, seconds, per_job)
        gap = few.idle / (seconds + few.idle)
        print(f"| {gpus:,} | {seconds} | {reports} | {load:.1%} | {idle:.2%} | {gap:.2%} |")
    most = max(0.0, 1 - REPORTS_A_SECOND * report) / few.cpu
    print(f"\nwith all {REPORTS_A_SECOND} reports a second, one core gives out {most:.0f} jobs a second:")
    print(f"{most * 60:,.0f} GPUs at 60 s a job, {most * 300:,.0f} at 300 s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--workers", type=int, default=max(2, os.cpu_count() or 2), help="k (one per core)")
    parser.add_argument("--jobs", type=int, default=4, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="denoising steps (the model's own)")
    parser.add_argument("--cost-jobs", type=int, default=200)
    parser.add_argument("--only-costs", action="store_true")
    parser.add_argument("--nodes", type=int, help="compare so many nodes of a Ray cluster with one, too")
    parser.add_argument("--only-nodes", action="store_true")
    given = parser.parse_args()
    if given.nodes or given.only_nodes:
        print_nodes(given.model, given.nodes or 2, given.jobs, given.steps)
        if given.only_nodes:
            return
        print()
    if not given.only_costs:
        print_throughput(given.model, given.workers, given.jobs, given.steps, given.rounds)
    print_costs(given.cost_jobs)


if __name__ == "__main__":
    main()
