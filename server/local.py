# SPDX-License-Identifier: Apache-2.0
"""Workers as processes of this machine: one per GPU, or as many as were asked for on the CPU."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence

from server.config import Settings
from server.files import Home
from server.process import WorkerProcess
from server.runner import Place

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_DEVICE = re.compile(r"UUID: ((?:GPU|MIG)-[0-9a-fA-F-]+)")


def visible_gpus(environment: Mapping[str, str] = os.environ, listing: str | None = None) -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES, one per GPU (or MIG slice). ``listing``: what ``nvidia-smi -L`` prints.

    A CUDA_VISIBLE_DEVICES that the server was started with is obeyed.
    """
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in (part.strip() for part in given.split(",")) if name and name != "-1"]
    if listing is None:
        try:
            listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout
        except (OSError, subprocess.SubprocessError):
            return []
    gpus: list[str] = []
    for line in listing.splitlines():
        found = _DEVICE.search(line)
        if found is None:
            continue
        if found[1].startswith("MIG-") and gpus and gpus[-1].startswith("GPU-"):
            gpus.pop()  # slices are used, not the GPU that they are slices of
        gpus.append(found[1])
    return gpus


def usable_cores() -> int:
    """Cores that this process may use, also inside a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_places(workers: int | None, gpus: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[Place]:
    """``workers`` None: one per GPU, or one on the CPU. On the CPU the threads are divided among the workers.

    More workers than GPUs share these in turn.
    """
    count = workers or max(1, len(gpus))
    if gpus:
        return [
            Place(
                str(n),
                f"GPU {gpus[n % len(gpus)]}",
                {"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)], "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            )
            for n in range(count)
        ]
    given = environment.get("OMP_NUM_THREADS", "")
    total = int(given) if given.isdecimal() and int(given) > 0 else usable_cores()
    share = {} if count == 1 else dict.fromkeys(_THREADS, str(max(1, total // count)))
    return [Place(str(n), f"process {n}", share) for n in range(count)]


class LocalRunner:
    def __init__(self, settings: Settings, home: Home) -> None:
        self._backend = settings.backend
        self._logs = home.logs
        self._places = local_places(settings.workers, visible_gpus())

    async def places(self) -> AsyncIterator[Sequence[Place]]:
        yield self._places
        await asyncio.Event().wait()  # they never change

    async def start(self, place: Place) -> WorkerProcess:
        return await WorkerProcess.start(self._backend, self._logs / f"worker-{place.id}.log", place.environment)
