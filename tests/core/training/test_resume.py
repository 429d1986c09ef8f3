# SPDX-License-Identifier: Apache-2.0
"""A run killed with SIGKILL, wherever, and started again ends with the weights of one left alone, to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hvg3d_core.training.config import TrainingError
from hvg3d_core.training.stages import run_stage
from tests.core.training.conftest import hvg3d, write_config

# Kills itself when half of a block of the given checkpoint's bytes is written.
DIES_WRITING = """
import os, signal, sys
import hvg3d_core.training.checkpoint as checkpoint
real, calls = checkpoint.write_durably, 0
class Dying:
    def __init__(self, file): self.file = file
    def __getattr__(self, name): return getattr(self.file, name)
    def write(self, data):
        self.file.write(bytes(data)[: len(data) // 2]); self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
def dying(path, write):
    global calls
    calls += 1
    real(path, write if calls < 2 else lambda file: write(Dying(file)))
checkpoint.write_durably = dying
from hvg3d_core.cli.main import app
app(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in another order differ in the last bit, and the killed process has one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_out(small: Path, folder: Path) -> Path:
    out = folder / "out"
    out.mkdir(parents=True)
    (out / "cache").symlink_to(small / "out" / "cache")
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")


def losses(out: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (out / "control_run" / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def start(arguments: list[object], *, program: list[str] | None = None) -> subprocess.Popen:
    command = [sys.executable, *(program or ["-m", "hvg3d_core.cli.main"]), *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def kill_at_step(process: subprocess.Popen, log: Path, step: int) -> None:
    """As soon as the log tells that a step is done."""
    for _ in range(24_000):
        if log.exists() and len(log.read_text().splitlines()) >= step:
            break
        assert process.poll() is None, f"it ended before step {step}"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL


def test_killed_at_a_random_step(small, tmp_path):
    settings = {"steps": "9", "checkpoint_every": "2", "log_every": "1", "accumulation": "2", "tensorboard": "false"}
    config = write_config(tmp_path, small / "start", **settings)
    whole = new_out(small, tmp_path / "whole")
    run_stage("control", str(config), small / "data", whole)
    broken = new_out(small, tmp_path / "broken")
    step = random.randrange(1, 8)
    print("killed at step", step)
    arguments = ["train", config, "--stage", "control", "--data", small / "data", "--out", broken]
    kill_at_step(start(arguments), broken / "control_run" / "log.jsonl", step)
    assert not (broken / "pipeline").exists()
    run_stage("control", str(config), small / "data", broken)
    assert same(weights(whole), weights(broken))
    assert losses(whole) == losses(broken)  # nothing twice, nothing missing, the same to the last bit
    untrained = load_file(small / "start" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert not torch.equal(weights(whole)["zero.0.weight"], torch.zeros(32, 32))
    assert torch.equal(weights(whole)["proj_out.weight"], untrained["proj_out.weight"])


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(small, tmp_path):
    settings = {"steps": "7", "checkpoint_every": "2", "log_every": "1", "tensorboard": "false"}
    config = write_config(tmp_path, small / "start", **settings)
    whole = new_out(small, tmp_path / "whole")
    run_stage("control", str(config), small / "data", whole)
    broken = new_out(small, tmp_path / "broken")
    arguments = ["train", config, "--stage", "control", "--data", small / "data", "--out", broken]
    process = start(arguments, program=["-c", DIES_WRITING])
    assert process.wait(280) == -signal.SIGKILL
    run = broken / "control_run"
    assert (run / "checkpoint.partial").stat().st_size < (run / "checkpoint.pt").stat().st_size
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 2
    run_stage("control", str(config), small / "data", broken)
    assert same(weights(whole), weights(broken))
    assert losses(whole) == losses(broken)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_killed_and_resumed(small, tmp_path, strategy):
    settings = {"steps": "5", "checkpoint_every": "2", "log_every": "1", "accumulation": "2", "tensorboard": "false"}
    settings |= {"hardware__processes": "2", "hardware__strategy": f'"{strategy}"'}
    config = write_config(tmp_path, small / "start", **settings)
    found = []
    for name in ("whole", "broken"):
        out = new_out(small, tmp_path / name)
        arguments = ["train", config, "--stage", "control", "--data", small / "data", "--out", out]
        if name == "broken":
            kill_at_step(start(arguments), out / "control_run" / "log.jsonl", 3)
            wait_for_lock(out)
        hvg3d(*arguments)
        found.append((weights(out), losses(out)))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def wait_for_lock(out: Path) -> None:
    """Until the workers of a killed launcher are gone."""
    import fcntl

    for _ in range(600):
        with open(out / ".lock", "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                time.sleep(0.1)
    raise AssertionError("workers outlived their launcher")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_do_what_one_does_with_twice_the_accumulation(small, tmp_path):
    """DDP to the last bit or nearly; FSDP sums in another order, which Adam makes larger where gradients are nothing
    but rounding: there losses are compared."""
    found = {}
    for name, changes in {
        "one": {"accumulation": "2"},
        "ddp": {"hardware__processes": "2"},
        "fsdp": {"hardware__processes": "2", "hardware__strategy": '"fsdp"', "control__validation__every": "2"},
    }.items():
        changes |= {"steps": "4", "log_every": "1", "tensorboard": "false", "hardware__precision": '"fp32"'}
        config = write_config(tmp_path, small / "start", f"{name}.toml", **changes)
        out = new_out(small, tmp_path / name)
        hvg3d("train", config, "--stage", "control", "--data", small / "data", "--out", out)
        found[name] = weights(out), [loss for _, loss in losses(out)]
    for key, value in found["one"][0].items():
        torch.testing.assert_close(found["ddp"][0][key], value, rtol=1e-6, atol=1e-7)
    for name in ("ddp", "fsdp"):
        assert found[name][1] == pytest.approx(found["one"][1], rel=1e-5)


def test_a_checkpoint_of_another_network_is_refused(small, tmp_path):
    out = new_out(small, tmp_path)
    (out / "control_run").mkdir()
    state = {"weights": {"zero.0.weight": torch.zeros(3)}, "average": None, "optimizers": [], "step": 1}
    torch.save(state, out / "control_run" / "checkpoint.pt")
    config = write_config(tmp_path, small / "start", tensorboard="false")
    with pytest.raises(TrainingError, match="another network"):
        run_stage("control", str(config), small / "data", out)
    (out / "control_run" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="delete it to start anew"):
        run_stage("control", str(config), small / "data", out)


def test_two_runs_in_one_folder_are_refused(small, tmp_path):
    from hvg3d_core.training.hardware import only_run_in

    out = new_out(small, tmp_path)
    with only_run_in(out), pytest.raises(TrainingError, match="another run trains here"), only_run_in(out):
        pass
    with only_run_in(out):  # the lock is gone with its holder
        pass
