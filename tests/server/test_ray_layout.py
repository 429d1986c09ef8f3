# SPDX-License-Identifier: Apache-2.0
"""Which nodes of a cluster get how many workers, and what is said where there is no cluster. Needs no Ray."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from server.check import look
from server.cluster.layout import Layout, Node, Spot
from server.cluster.runner import RayError, check_ray
from server.config import Settings

from .serverkit import ROOT


def nodes(*sizes: tuple[int, int]) -> list[Node]:
    """(cores, GPUs) of each."""
    return [Node(f"{n:02x}" * 28, f"10.0.0.{n}", cpus, gpus) for n, (cpus, gpus) in enumerate(sizes)]


def spread(spots: Sequence[Spot]) -> list[int]:
    """Spots on each node that has some, in the nodes' order."""
    return [count for _, count in sorted(Counter(spot.node.id for spot in spots).items())]


def test_one_worker_for_every_gpu_and_none_elsewhere() -> None:
    spots = Layout(None).update(nodes((8, 2), (16, 0), (4, 1)))
    assert spread(spots) == [2, 1]
    assert all(spot.gpu for spot in spots)
    assert len({spot.id for spot in spots}) == 3


def test_without_gpus_one_for_every_node_that_has_cores() -> None:
    spots = Layout(None).update(nodes((8, 0), (0, 0), (4, 0)))
    assert spread(spots) == [1, 1]
    assert all(spot.node.cpus for spot in spots)


def test_so_many_workers_are_spread_by_cores_and_never_more_than_these() -> None:
    assert spread(Layout(6).update(nodes((8, 0), (4, 0)))) == [4, 2]
    assert spread(Layout(3).update(nodes((1, 0), (1, 0), (1, 0)))) == [1, 1, 1]
    assert len(Layout(9).update(nodes((1, 0), (2, 0)))) == 3


def test_the_last_gpus_loss_is_waited_out() -> None:
    """A large model is not started on cores because its GPU's node has gone for a while."""
    layout = Layout(None)
    cpu, gpu = nodes((8, 0), (8, 1))
    assert [spot.gpu for spot in layout.update([cpu])] == [False]
    assert [spot.node for spot in layout.update([cpu, gpu])] == [gpu]
    assert layout.update([cpu]) == []
    assert [spot.node for spot in layout.update([cpu, gpu])] == [gpu]


def test_a_lost_nodes_workers_go_elsewhere_and_the_others_stay() -> None:
    layout = Layout(4)
    a, b = nodes((4, 0), (4, 0))
    before = [spot for spot in layout.update([a, b]) if spot.node == b]
    after = layout.update([b])
    assert spread(after) == [4]
    assert all(spot in after for spot in before)


def test_a_node_that_joins_gets_idle_workers_only() -> None:
    layout = Layout(4)
    a, b = nodes((4, 0), (4, 0))
    busy = layout.update([a])[:3]
    assert spread(layout.update([a, b], lambda spot: spot not in busy)) == [3, 1]
    assert all(spot in layout.spots for spot in busy)
    settled = list(layout.update([a, b]))
    assert spread(settled) == [2, 2]
    assert layout.update([a, b]) == settled, "and then nothing moves any more"


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayError, match=r"pip install 'hvg3d\[server,ray\]'"):
        check_ray("127.0.0.1:6379")


@pytest.mark.parametrize("address", ["here", "10.0.0.1", ":6379", "10.0.0.1:port"])
def test_an_address_that_is_none(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(RayError, match="give HOST:PORT"):
        check_ray(address)


def test_a_cluster_that_does_not_answer_ends_the_start_with_one_line(tmp_path: Path) -> None:
    """A port where nobody listens: exit code 2, what is wrong and what to do; the home can be used again."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        command = [sys.executable, "-m", "server", "--home", str(tmp_path / "home"), "--ray", address]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --ray ")
    assert ended.stderr.count("\n") == 1
    assert "ray start --head" in ended.stderr or "pip install" in ended.stderr


def test_the_check_looks_at_the_cluster_and_not_at_this_machines_gpus(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        settings = Settings(home=tmp_path / "home", ray=f"127.0.0.1:{sock.getsockname()[1]}")
        found = {finding.about: finding for finding in look(settings)}
        assert found["cluster"].level == "problem"
        assert found["cluster"].remedy
        assert not {"GPU", "driver", "memory"} & set(found)


def test_a_server_without_ray_imports_none_of_it() -> None:
    code = "import sys, server.__main__; print([name for name in sys.modules if name.split('.')[0] == 'ray'])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ended.stdout.strip() == "[]", ended.stderr
