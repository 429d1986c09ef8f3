# SPDX-License-Identifier: Apache-2.0
"""Rules without processes: what becomes of a lost attempt, which GPUs and threads a worker gets."""

from __future__ import annotations

import os

from server.failures import failure
from server.local import local_places, usable_cores, visible_gpus
from server.retries import Again, GiveUp, Limits, after_loss, after_out_of_memory
from server.runner import Exit

LADDER = [[], ["text_first"], ["text_first", "tiling"]]
LIMITS = Limits(crashes=2, attempts=5)
KILLED = Exit("signal 9 (SIGKILL)", memory=True)
FULL = failure("out_of_memory", "the worker ran out of memory: tried to allocate 9 GiB", "use fewer frames")


def lose(end: Exit = KILLED, hung: str | None = None, attempt: int = 1, crashes: int = 0, rung: int = 0):
    return after_loss(end, hung, attempt, crashes, rung, LADDER, LIMITS, ["last words"])


def test_out_of_memory_goes_down_the_ladder() -> None:
    assert after_out_of_memory(FULL, 0, LADDER) == Again(
        1, "out of memory with full memory; started again with text_first", crashed=False
    )
    last = after_out_of_memory(FULL, 2, LADDER)
    assert isinstance(last, GiveUp)
    assert "9 GiB (tried in turn: full memory, text_first, text_first + tiling)" in last.error["message"]
    chosen = after_out_of_memory(FULL, 0, LADDER, "text_first")
    assert isinstance(chosen, Again) and chosen.rung == 2, "what the generator had chosen by itself is not tried again"
    alone = after_out_of_memory(FULL, 0, [[]])
    assert alone == GiveUp(FULL)


def test_a_worker_killed_twice_is_given_less_memory() -> None:
    """The system kills without a word when memory runs out. Once may have been anybody."""
    assert lose() == Again(0, "its worker ended with signal 9 (SIGKILL); started again", crashed=True)
    again = lose(crashes=1)
    assert isinstance(again, Again) and (again.rung, again.crashed) == (1, True)
    assert "started again with text_first" in again.note
    assert lose(Exit("exit code 3"), crashes=1) == Again(0, "its worker ended with exit code 3; started again", True)


def test_limits() -> None:
    died = lose(crashes=2)
    assert isinstance(died, GiveUp)
    assert (died.error["code"], died.error["log"]) == ("worker_died", ["last words"])
    assert "3 times; the last time with signal 9" in died.error["message"]
    hung = lose(hung="for 900 seconds, in phase 'denoise' at step 3 of 50", crashes=2)
    assert isinstance(hung, GiveUp)
    assert hung.error["code"] == "worker_hung"
    assert "no progress for 900 seconds, in phase 'denoise' at step 3 of 50" in hung.error["message"]
    assert "--hang-seconds" in hung.error["remedy"]


def test_a_lost_node_is_not_held_against_the_job_but_not_for_ever_either() -> None:
    lost = Exit("the loss of node 10.0.0.2", blame=False)
    assert lose(lost, crashes=2) == Again(0, "its worker ended with the loss of node 10.0.0.2; started again", False)
    last = lose(lost, attempt=5)
    assert isinstance(last, GiveUp)
    assert last.error["code"] == "too_many_attempts"
    assert "5 times" in last.error["message"] and "node 10.0.0.2" in last.error["message"]


def test_the_ladder_is_the_generators() -> None:
    from hvg3d_core.pipelines import MEMORY_MODES
    from server.backend import memory_ladder

    assert memory_ladder() == [[], *([mode] for mode in MEMORY_MODES[1:])]


LISTING = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-aaaa-bbbb-cccc-000000000000)
  MIG 3g.40gb     Device  0: (UUID: MIG-22222222-aaaa-bbbb-cccc-000000000000)
  MIG 3g.40gb     Device  1: (UUID: MIG-33333333-aaaa-bbbb-cccc-000000000000)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-44444444-aaaa-bbbb-cccc-000000000000)
"""


def test_one_worker_per_gpu() -> None:
    gpus = visible_gpus({}, LISTING)
    assert [gpu[:12] for gpu in gpus] == ["MIG-22222222", "MIG-33333333", "GPU-44444444"]
    places = local_places(None, gpus, {})
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places] == gpus
    assert len({place.id for place in places}) == 3
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, 1"}, LISTING) == ["3", "1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, LISTING) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}, LISTING) == []
    assert visible_gpus({}, "No devices were found") == []
    shared = local_places(4, ["0", "1"], {})
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in shared] == ["0", "1", "0", "1"]


def test_threads_are_divided_on_the_cpu() -> None:
    assert local_places(None, [], {})[0].environment == {}, "a single worker takes what there is"
    four = local_places(4, [], {"OMP_NUM_THREADS": "10"})
    assert [place.environment["OMP_NUM_THREADS"] for place in four] == ["2"] * 4
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    many = local_places(1000, [], {})
    assert many[999].environment["OMP_NUM_THREADS"] == "1"
