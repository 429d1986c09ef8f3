# SPDX-License-Identifier: Apache-2.0
"""What the server costs beside the same generation in one process: wall time, memory outside the worker, the list.

    .venv/bin/python benchmarks/server_overhead.py --repeat 7 --steps 3

In one process: read the clip's file, generate, write the result. Through the server: send the clip and the request,
follow the events, fetch the video. Both have the model loaded and have generated once; they take turns, so that what
else the machine does meets both alike. The ratio is the median over the turns of one to the other. On a machine that
does other things, too, the same generate() takes now longer, now shorter, by more than the server costs; so the time
around it is told apart, by the clock inside generate() itself: its median on one side less that on the other is what
the server adds. The server draws
the scene beside the result (scene.mp4) once for each clip, which the other side does not; that is a row of its own.

The list is that of a server with 100,000 past jobs, all copies of the real ones.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import Server, cpu_seconds, make_clip, memory_mib, running_server

PAST = 100_000


@dataclass(frozen=True)
class Turn:
    """Seconds: as the caller waited, what the processors worked, and the part of the first that was not generate()."""

    wall: float
    processor: float
    around: float


def in_one_process(model: Any, data: Path, folder: Path, request: dict[str, Any]) -> Turn:
    from hvg3d_core import generate
    from hvg3d_core.conditions import clip_from_bytes

    began, used = time.perf_counter(), time.process_time()
    clip = clip_from_bytes(data.read_bytes())
    result = generate.generate(model, clip, generate.GenerationRequest(**request), on_progress=lambda *_: None)
    generate.write_result(result, folder)
    took = time.perf_counter() - began
    return Turn(took, time.process_time() - used, took - result.metadata["seconds"]["total"])


def through_the_server(server: Server, worker: int, data: bytes, request: dict[str, Any]) -> Turn:
    """As the client sees it; the processor time is that of server and worker together."""
    used = cpu_seconds(server.process.pid) + cpu_seconds(worker)
    began = time.perf_counter()
    clip = server.upload(data)
    view = server.wait(server.submit(clip, **request))[0]
    server.http.get(view["result"]["video"]).raise_for_status()
    took = time.perf_counter() - began
    used = cpu_seconds(server.process.pid) + cpu_seconds(worker) - used
    return Turn(took, used, took - server.get(view["result"]["metadata"])["seconds"]["total"])


def fill(server: Server, count: int) -> None:
    """Copies of the finished jobs, a second apart, of 50 clients, in all three final states."""
    database = sqlite3.connect(server.home / "jobs.sqlite3", timeout=60)
    names = [row[1] for row in database.execute("PRAGMA table_info(jobs)")]
    changed = {
        "id": "printf('%08x-0000-4000-8000-%012x', n, n)",
        "created": "1.6e9 + n",
        "owner": "'client ' || (n % 50)",
        "client": "'client ' || (n % 50)",
        "state": "CASE n % 10 WHEN 0 THEN 'failed' WHEN 1 THEN 'cancelled' ELSE 'done' END",
    }
    columns = ", ".join(changed.get(name, name) for name in names)
    database.execute(
        f"WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < {count}) "
        f"INSERT INTO jobs ({', '.join(names)}) SELECT {columns} FROM counted, "
        "(SELECT * FROM jobs WHERE state = 'done' LIMIT 1)"
    )
    database.commit()
    database.close()


def list_milliseconds(server: Server, path: str, repeat: int = 40) -> tuple[float, float]:
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        server.http.get(path).raise_for_status()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times), max(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--steps", type=int, help="denoising steps (the model's own)")
    parser.add_argument("--model", default="nano")
    given = parser.parse_args()
    from hvg3d_core import generate

    request = {"seed": 0, "num_inference_steps": given.steps}
    model = generate.load_model(given.model)
    data = make_clip()
    with tempfile.TemporaryDirectory() as folder, running_server("--model", given.model, "--preload") as server:
        file = Path(folder) / "clip.safetensors"
        file.write_bytes(data)
        worker = server.wait_for_workers(1, server.get("/v1/health")["default_model"])[0]["pid"]
        in_one_process(model, file, Path(folder), request)
        began = time.perf_counter()
        first = through_the_server(server, worker, data, request)
        alone: list[Turn] = []
        served: list[Turn] = []
        for turn in range(given.repeat):
            sides = [
                lambda: alone.append(in_one_process(model, file, Path(folder), request)),
                lambda: served.append(through_the_server(server, worker, data, request)),
            ]
            for side in sides[:: 1 if turn % 2 == 0 else -1]:
                side()
        now, peak = memory_mib(server.process.pid)
        print(f"{given.repeat} turns each, {time.perf_counter() - began:.0f} s; clip of {len(data) / 1024:.0f} KiB")
        print("| the same generation, seconds | median | least | most | processors | around generate() |")
        print("|---|---|---|---|---|---|")
        for name, turns in (("in one process", alone), ("through the server", served)):
            walls = [turn.wall for turn in turns]
            used = statistics.median(turn.processor for turn in turns)
            around = statistics.median(turn.around for turn in turns)
            print(f"| {name} | {statistics.median(walls):.3f} | {min(walls):.3f} | {max(walls):.3f} ", end="")
            print(f"| {used:.3f} | {around:.3f} |")
        ratios = [s.wall / a.wall for a, s in zip(alone, served, strict=True)]
        print(f"ratio of a turn's wall times: median {statistics.median(ratios):.4f}, least {min(ratios):.4f}")
        more = statistics.median(t.around for t in served) - statistics.median(t.around for t in alone)
        share = more / statistics.median(turn.wall for turn in alone)
        print(f"more around the generation: {1e3 * more:.0f} ms, {share:.2%} of what it takes in one process")
        print(f"the first take of a clip, with the scene drawn beside it: {first.wall:.3f} s")
        print(f"memory outside the worker: {now:.0f} MiB, at its peak {peak:.0f} MiB")

        began = time.perf_counter()
        fill(server, PAST)
        print(f"\n{PAST:,} past jobs (written in {time.perf_counter() - began:.0f} s)")
        deep = server.get("/v1/jobs?limit=1")["jobs"][0]["id"]
        before = f"{1.6e9 + PAST / 2!r},{deep}"
        print("| GET /v1/jobs | ms, median | ms, most |\n|---|---|---|")
        for query in ("", "?limit=20", "?state=done", "?state=done&state=failed", f"?before={before}", "?limit=1000"):
            median, most = list_milliseconds(server, f"/v1/jobs{query}")
            print(f"| {query.split(',')[0] or '(the newest 100)'} | {median:.1f} | {most:.1f} |")
        now, peak = memory_mib(server.process.pid)
        print(f"memory outside the worker after that: {now:.0f} MiB, at its peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
