# SPDX-License-Identifier: Apache-2.0
"""No job is lost, none is done twice, all files are whole, while server and workers are killed at random."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .chaos import run_chaos
from .serverkit import tiny_clip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the workers to kill in /proc")


def request(n: int) -> dict:
    """Every request comes twice, from different clients."""
    return {"seed": n // 2, "num_inference_steps": 2 + n // 2 % 5}


def test_24_jobs_and_6_kills(tmp_path: Path) -> None:
    crowd = run_chaos(
        tmp_path / "home",
        *("--workers", "2"),
        clip=tiny_clip(),
        clients=3,
        jobs=24,
        kills=6,
        seconds=240,
        request=request,
        frames=(9, 48, 64, 3),
    )
    assert sum(len(client.done) for client in crowd) == 24


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_200_jobs_of_8_clients_and_50_kills(tmp_path: Path) -> None:
    crowd = run_chaos(
        tmp_path / "home",
        *("--workers", "2"),
        clip=tiny_clip(),
        clients=8,
        jobs=200,
        kills=50,
        seconds=2300,
        request=request,
        frames=(9, 48, 64, 3),
    )
    assert sum(len(client.done) for client in crowd) == 200


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_pipeline(tmp_path: Path) -> None:
    """With torch and all: what was killed and begun again is the same video as its undisturbed twin."""
    from .tiny_network import save_tiny_network

    save_tiny_network(tmp_path / "tiny")
    crowd = run_chaos(
        tmp_path / "home",
        *("--backend", "server.backend", "--model", str(tmp_path / "tiny")),
        clip=tiny_clip(),
        clients=4,
        jobs=24,
        kills=6,
        seconds=1700,
        request=request,
        frames=(9, 32, 32, 3),
    )
    assert sum(len(client.done) for client in crowd) == 24
