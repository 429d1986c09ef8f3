# SPDX-License-Identifier: Apache-2.0
"""The loop that all stages share: batches summed to steps, weight average, checkpoints, log."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import Checkpoints
from .config import ControlStage, HardwareConfig, StageConfig, TrainingError
from .hardware import Hardware
from .journal import Journal
from .optim import build_optimizers, lr_factor

# Settings that change how a run is watched, not what it learns.
HARMLESS = ("steps", "checkpoint_every", "log_every", "tensorboard", "validation", "init", "gradient_checkpointing")


def seed_of(*parts: object) -> int:
    """63 bits that follow from ``parts``, the same on every machine."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@lru_cache(maxsize=2)
def shuffled(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Part:
    """One batch of a step: its number among all batches of the step, of every process, and what it draws from."""

    step: int
    index: int
    parts: int
    generator: torch.Generator
    seed: int  # the stage's

    def rows(self, size: int, batch_size: int, in_epochs: bool = False) -> Tensor:
        """Which of ``size`` samples are in this batch: drawn, or the next ones of an order that every epoch shuffles
        anew."""
        if not in_epochs:
            return torch.randint(size, (batch_size,), generator=self.generator)
        first = (self.step * self.parts + self.index) * batch_size
        return torch.stack(
            [shuffled(size, seed_of(self.seed, "epoch", n // size))[n % size] for n in range(first, first + batch_size)]
        )


LossOfPart = Callable[[Part], tuple[Tensor, dict[str, float]]]


class Trainer:
    """Runs ``loss_of_part`` until ``config.steps`` and can be killed and started again at any moment.

    ``loss_of_part(part) -> (loss, logged numbers)`` calls ``trainer.network`` and draws everything random from
    ``part.generator``. Where a step is one batch that generator is one for the whole run, kept in the checkpoints;
    where it is several it follows from seed, step and batch alone. So a resumed run goes on as an unbroken one, and
    two processes do what one does with twice the accumulation. ``model`` is the network without a wrapping.
    """

    def __init__(
        self, model: nn.Module, config: StageConfig, folder: Path, hardware: Hardware | HardwareConfig | None = None
    ) -> None:
        if not isinstance(hardware, Hardware):
            hardware = Hardware(hardware or HardwareConfig(device="cpu"), config.accumulation, config.clip_grad_norm)
        self.config, self.folder, self.hardware = config, folder, hardware
        folder.mkdir(parents=True, exist_ok=True)
        self.model = hardware.place(model)
        self.optimizers = build_optimizers(self.model, config)
        self.network = hardware.connect(self.model, self.optimizers)
        self.checkpoints = Checkpoints(folder, hardware, self.model, self.optimizers)
        self.trained = self.checkpoints.trained
        self.generator = torch.Generator().manual_seed(config.seed)
        self.average = {name: p.detach().clone() for name, p in self.trained.items()} if config.ema else None
        self.step, self.sums, self.count = 0, dict[str, float](), 0
        self._resume()
        self.journal = Journal(folder, self.step, config.tensorboard) if hardware.main else None

    @property
    def parts(self) -> int:
        """Batches of a step, over all processes."""
        return self.config.accumulation * self.hardware.world

    def _settings(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self.config).items() if k not in HARMLESS} | {"batches of a step": self.parts}

    def _resume(self) -> None:
        progress = self.checkpoints.load(self.average)
        if progress is None:
            return
        self.generator.set_state(progress["generator"])
        torch.set_rng_state(progress["torch_rng"])
        self.step = progress["step"]
        self.sums, self.count = progress.get("sums", {}), progress.get("count", 0)
        if self.hardware.main:
            print(f"resumed {self.folder.name} at step {self.step}", flush=True)
            before, now = progress.get("settings", {}), self._settings()
            for key in before.keys() & now.keys():
                if list_like(before[key]) != list_like(now[key]):
                    print(f"changed since the checkpoint: {key} from {before[key]} to {now[key]}", flush=True)

    def save(self) -> None:
        self.sums = self.hardware.mean(self.sums)
        progress = {
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "step": self.step,
            "sums": self.sums,
            "count": self.count,
            "settings": self._settings(),
        }
        self.checkpoints.save(progress, self.average)

    def _part(self, batch: int) -> Part:
        if self.parts == 1:
            return Part(self.step, 0, 1, self.generator, self.config.seed)
        index = batch * self.hardware.world + self.hardware.rank
        seed = seed_of(self.config.seed, self.step, index)
        torch.manual_seed(seed)  # of whatever draws by itself, such as a dropout layer
        return Part(self.step, index, self.parts, torch.Generator().manual_seed(seed), self.config.seed)

    def _update_average(self) -> None:
        if self.average is None:
            return
        # A short run would otherwise still carry its first weights.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for name, parameter in self.trained.items():
            self.average[name].lerp_(parameter.detach(), 1 - decay)

    def _one_step(self, loss_of_part: LossOfPart) -> float:
        """The rates' factor of this step."""
        config, hardware = self.config, self.hardware
        factor = lr_factor(self.step, config)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
        summed: dict[str, float] = {}
        for batch in range(config.accumulation):
            with hardware.accumulate(self.network, last=batch == config.accumulation - 1):
                loss, numbers = loss_of_part(self._part(batch))
                hardware.backward(loss / config.accumulation)
            for key, value in {"loss": float(loss.detach()), **numbers}.items():
                summed[key] = summed.get(key, 0.0) + value / config.accumulation
        norm = hardware.step(list(self.trained.values()), self.optimizers, config.clip_grad_norm)
        if not math.isfinite(norm):
            raise TrainingError(
                f"{self.folder.name}: at step {self.step} the gradients are no longer finite (loss {summed['loss']}); "
                f"the last checkpoint is untouched: start again with a lower lr (now {config.lr}) or a longer warmup"
            )
        self._update_average()
        self.step += 1
        self.count += 1
        for key, value in {**summed, "grad_norm": norm}.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        return factor

    def _log(self, factor: float, rate: float) -> None:
        means = {key: value / self.count for key, value in self.hardware.mean(self.sums).items()}
        self.sums, self.count = {}, 0
        if self.journal is not None:
            row = {"step": self.step, **means, "seconds_per_step": round(rate, 3), "lr_factor": round(factor, 4)}
            self.journal.row("log.jsonl", row)
            print(" ".join(f"{k}={round(v, 5)}" for k, v in row.items()), flush=True)

    def run(self, loss_of_part: LossOfPart, validate: Callable[[Trainer], None] | None = None) -> None:
        """``validate`` is called every ``config.validation.every`` steps and draws nothing from what a step uses."""
        config = self.config
        every = config.validation.every if isinstance(config, ControlStage) else 0
        started, since = time.monotonic(), self.step
        while self.step < config.steps:
            factor = self._one_step(loss_of_part)
            if self.step % config.log_every == 0:
                self._log(factor, (time.monotonic() - started) / (self.step - since))
            if validate is not None and every and (self.step % every == 0 or self.step == config.steps):
                with undisturbed():
                    validate(self)
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self.save()
        if self.journal is not None:
            self.journal.close()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The weight average in the place of the weights, where one is kept."""
        if self.average is None:
            yield
            return
        kept = {name: p.detach().clone() for name, p in self.trained.items()}
        self.export_weights()
        try:
            yield
        finally:
            for name, parameter in self.trained.items():
                parameter.data.copy_(kept[name])

    def export_weights(self) -> None:
        """Put the weight average into the model, where one is kept."""
        if self.average is not None:
            for name, parameter in self.trained.items():
                parameter.data.copy_(self.average[name])

    def whole_weights(self) -> dict[str, Tensor]:
        """The trained weights to export, float32 on the CPU; empty on all processes but the main one."""
        hardware = self.hardware
        if hardware.deepspeed:
            state = hardware.accelerator.get_state_dict(self.network)
            return {n: state[n].float().cpu() for n in self.trained} if hardware.main else {}
        found = {}
        for name, value in (self.average or self.trained).items():
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            if hardware.main:
                found[name] = whole.detach().float().cpu()
        return found


def list_like(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave torch's random state as it was."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield
