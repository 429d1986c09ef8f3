# SPDX-License-Identifier: Apache-2.0
"""Where a run takes place: one process or several, each whole (DDP) or holding a part (FSDP, DeepSpeed).

accelerate finds the device, joins the processes and wraps the network for DDP and DeepSpeed. FSDP is PyTorch's own
``fully_shard``: accelerate offers it on accelerators only, and what cannot run on a CPU cannot be tested everywhere.
Arithmetic is autocast's, with trained weights kept in float32.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from .config import ConfigError, HardwareConfig, TrainingError

BLOCKS = ("transformer_blocks", "control_blocks")  # FSDP gathers the weights of one at a time
POINT_MODULES = ("point_encoder", "point_resampler")


def needs_launch(config: HardwareConfig) -> bool:
    """Whether the processes of this run have still to be started."""
    return "LOCAL_RANK" not in os.environ and (config.processes != 1 or config.strategy != "ddp")


def launch(config: HardwareConfig, arguments: Sequence[str]) -> None:
    """Become PyTorch's launcher, which starts ``hvg3d ARGUMENTS`` once for every process. Does not return."""
    count = config.processes
    if count == 0:
        count = 1 if config.device == "cpu" else max(1, torch.cuda.device_count())
    environment = {**os.environ, "HVG3D_LAUNCHED": "1"}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["-m", "hvg3d_core.cli.main", *arguments]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def die_with_launcher() -> None:
    """On Linux: no worker outlives a launcher that was killed, or it would write beside the next run."""
    if os.environ.get("HVG3D_LAUNCHED") and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextmanager
def only_run_in(folder: Path, main: bool = True) -> Iterator[None]:
    """Hold ``folder`` for this run; two would overwrite each other's checkpoints. Raises TrainingError."""
    folder.mkdir(parents=True, exist_ok=True)
    if not main or sys.platform == "win32":
        yield
        return
    import fcntl  # the system lets go of the lock however this process ends

    with open(folder / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingError(f"{folder}: another run trains here; wait for it, or use another --out") from None
        yield


class Hardware:
    """One process of a run: its device and rank, and what differs between the strategies."""

    def __init__(self, config: HardwareConfig, accumulation: int = 1, clip: float = 1.0) -> None:
        self.config, self.accumulation = config, accumulation
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("hardware.device is 'cuda': there is no CUDA device here; use auto or cpu")
        cpu = config.device == "cpu" or not torch.cuda.is_available()
        several = "LOCAL_RANK" in os.environ
        if config.strategy != "ddp" and not several:
            raise ConfigError(
                f"hardware.strategy is {config.strategy!r}: its processes have not been started; use hvg3d train, or "
                "torchrun, or ddp"
            )
        if config.strategy == "deepspeed" and cpu:
            raise ConfigError("hardware.strategy is 'deepspeed': it needs a GPU; use fsdp or ddp")
        deepspeed = config.strategy == "deepspeed" and several
        handlers: list[Any] = []
        if several:
            backend = "gloo" if cpu else "cuda:nccl,cpu:gloo"
            handlers.append(InitProcessGroupKwargs(backend=backend, timeout=timedelta(minutes=config.timeout_minutes)))
            handlers.append(DistributedDataParallelKwargs(gradient_as_bucket_view=True))
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="bf16" if deepspeed and config.precision == "bf16" else "no",
            deepspeed_plugin=_deepspeed_plugin(config, accumulation, clip) if deepspeed else None,
            kwargs_handlers=handlers,
        )
        self.device: torch.device = self.accelerator.device
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        self.deepspeed = deepspeed
        self.fsdp = config.strategy == "fsdp" and several
        self.engine: Any = None

    @property
    def sharded(self) -> bool:
        """No process has all of the weights, so that every forward pass is the work of all."""
        return self.fsdp or self.deepspeed

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def place(self, model: nn.Module) -> nn.Module:
        """Move ``model`` to the device, or shard it in place. To be called before its optimisers are made."""
        if not self.fsdp:
            return model.to(self.device)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

        options: dict[str, Any] = {"mesh": init_device_mesh(self.device.type, (self.world,))}
        if self.config.offload:
            options["offload_policy"] = CPUOffloadPolicy()
        for name in BLOCKS:
            for block in getattr(model, name, ()):
                fully_shard(block, **options)
        for name in POINT_MODULES:  # the pipeline calls these by themselves, too
            if (part := getattr(model, name, None)) is not None:
                fully_shard(part, **options)
        # Otherwise what is gathered for the last forward pass stays, and outlives a change of the weights by hand, such
        # as the average's in validation.
        fully_shard(model, reshard_after_forward=True, **options)
        for buffer in model.buffers():
            buffer.data = buffer.data.to(self.device)
        return model

    def connect(self, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Any:
        """What is to be called in a step: ``model`` itself, or wrapped so that gradients are shared."""
        if self.deepspeed:
            if len(optimizers) != 1:
                raise ConfigError("hardware.strategy is 'deepspeed': it takes one optimiser; set muon_lr to 0")
            self.engine, optimizers[0] = self.accelerator.prepare(model, optimizers[0])
            return self.engine
        if self.fsdp or self.world == 1:
            return model
        return self.accelerator.prepare_model(model)

    def accumulate(self, network: Any, last: bool) -> AbstractContextManager[Any]:
        """Gradients are shared after the last batch of a step only."""
        if self.deepspeed:
            network.set_gradient_accumulation_boundary(is_boundary=last)
        elif self.fsdp:
            network.set_requires_gradient_sync(last)
        elif self.world > 1 and not last:
            return network.no_sync()
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        if self.deepspeed:
            self.engine.backward(loss * self.accumulation)  # it divides by the number of batches itself
        else:
            loss.backward()

    def step(self, parameters: Sequence[nn.Parameter], optimizers: list[torch.optim.Optimizer], limit: float) -> float:
        """Clip the gradients' norm (``limit`` 0: do not), update, forget the gradients; the norm before clipping.

        Nothing is updated where the norm is not finite.
        """
        if self.deepspeed:
            self.engine.step()  # clips and forgets by itself
            return float(self.engine.get_global_grad_norm() or 0.0)
        found: Any = nn.utils.clip_grad_norm_(parameters, limit or float("inf"))
        norm = float(found.full_tensor() if hasattr(found, "full_tensor") else found)
        for optimizer in optimizers:
            if math.isfinite(norm):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def mean(self, numbers: dict[str, float]) -> dict[str, float]:
        """The mean over all processes, of numbers that all of them have."""
        if self.world == 1 or not numbers:
            return dict(numbers)
        values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(values)
        return dict(zip(numbers, (values / self.world).tolist(), strict=True))

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        if dist.is_initialized():
            self.wait()
            dist.destroy_process_group()


def _deepspeed_plugin(config: HardwareConfig, accumulation: int, clip: float) -> Any:
    try:
        import deepspeed  # noqa: F401
    except ImportError:
        raise ConfigError(
            "hardware.strategy is 'deepspeed': the package is not installed; pip install deepspeed, or use fsdp"
        ) from None
    from accelerate.utils import DeepSpeedPlugin

    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if config.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    return DeepSpeedPlugin(
        hf_ds_config={
            "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only reports with it
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": clip,
            "bf16": {"enabled": config.precision == "bf16"},
            "zero_optimization": zero,
            "zero_force_ds_cpu_optimizer": False,
        }
    )
