# SPDX-License-Identifier: Apache-2.0
"""A real Ray cluster on this machine: each node as ``ray start`` starts it, with processes of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from .serverkit import ROOT

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_DEDUP_LOGS": "0",
}
_START_SECONDS = 120.0
_OBJECT_STORE_BYTES = 80 * 1024 * 1024


class RayNode:
    def __init__(self, *arguments: str, log: Path, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += ["--node-ip-address=127.0.0.1", f"--object-store-memory={_OBJECT_STORE_BYTES}", *arguments]
        with open(log, "wb") as file:
            self.process = psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        end = time.monotonic() + _START_SECONDS
        while "Ray runtime started" not in log.read_text("utf-8", "replace"):
            if time.monotonic() > end or self.process.poll() is not None:
                self.kill()
                raise OSError(f"the node did not start: {log.read_text('utf-8', 'replace')[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """All that runs on the node, at once, as a power cut does it: stopped first, so that none sees another die."""
        with contextlib.suppress(psutil.NoSuchProcess):
            everything = [self.process, *self.process.children(recursive=True)]
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for process in everything:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        os.kill(process.pid, number)
            psutil.wait_procs(everything, 10)

    def has_child(self, pid: int) -> bool:
        return any(process.pid == pid for process in self.process.children(recursive=True))


class RayCluster:
    """A head without cores, and nodes that come and go."""

    def __init__(self, folder: Path, step_seconds: float = 0.05) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._logs = folder
        self._started = 0
        self._temporary = tempfile.mkdtemp(prefix="ray-")  # Ray's sockets need a short path
        here = str(Path(__file__).parent)
        self._environment = {
            **os.environ,
            **_QUIET,
            "PYTHONPATH": os.pathsep.join([str(ROOT), here]),
            "HVG3D_TEST_FOLDER": str(folder),
            "HVG3D_TEST_STEP_SECONDS": str(step_seconds),
            "TMPDIR": self._temporary,
        }
        self.nodes: list[RayNode] = []
        head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
        self.head = self._start(*head, f"--temp-dir={self._temporary}")

    def add_node(self, cpus: int = 1) -> RayNode:
        node = self._start(f"--address={self.address}", f"--num-cpus={cpus}")
        self.nodes.append(node)
        return node

    def node_of(self, pid: int) -> RayNode:
        return next(node for node in self.nodes if node.has_child(pid))

    def _start(self, *arguments: str) -> RayNode:
        """On a machine with much else to do Ray now and then loses patience with itself: then once more."""
        self._started += 1
        try:
            return RayNode(*arguments, log=self._logs / f"node-{self._started}.log", environment=self._environment)
        except OSError:
            return RayNode(*arguments, log=self._logs / f"node-{self._started}b.log", environment=self._environment)

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for node in (*self.nodes, self.head):
            node.kill()
        shutil.rmtree(self._temporary, ignore_errors=True)
