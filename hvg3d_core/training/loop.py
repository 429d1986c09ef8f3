# SPDX-License-Identifier: Apache-2.0
"""The loop that all stages share: schedule, optimisers, weight average, checkpoints, log."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from .config import StageConfig


def build_optimizers(model: nn.Module, config: StageConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of transformer blocks and AdamW for the rest.

    Muon (Jordan et al. 2024) orthogonalises the update of a matrix; embeddings, norms, convolutions and the
    zero-initialised layers keep AdamW. ``match_rms_adamw`` lets one rate serve matrices of any shape.
    """
    matrices, decay, plain = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if config.muon_lr > 0 and parameter.ndim == 2 and "blocks" in name and not name.startswith("zero"):
            matrices.append(parameter)
        elif parameter.ndim > 1:
            decay.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95))]
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def lr_factor(step: int, config: StageConfig) -> float:
    """Linear warm-up, then cosine from 1 to ``final_lr``."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


class Trainer:
    """Runs ``loss_of_step`` until ``config.steps`` and can be killed and started again at any moment.

    A checkpoint holds the trained weights, their average, the optimisers, the step and the random state, and is
    written beside and then moved over the old one. ``loss_of_step(step, generator) -> (loss, logged numbers)`` draws
    everything random from ``generator``, so that a resumed run goes on as an unbroken one would.
    """

    def __init__(self, model: nn.Module, config: StageConfig, folder: Path) -> None:
        self.model, self.config, self.folder = model, config, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizers = build_optimizers(model, config)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.average = {name: p.detach().clone() for name, p in self.trained.items()} if config.ema else None
        self.step = 0
        self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["weights"], strict=False)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            peaks = [group["peak_lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["peak_lr"] = peak  # the configuration's, should it have changed since
        if self.average is not None:
            self.average = state["average"]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        self.step = state["step"]
        print(f"resumed {self.folder.name} at step {self.step}", flush=True)

    def save(self) -> None:
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "weights": {name: p.detach() for name, p in self.trained.items()},
                "average": self.average,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "generator": self.generator.get_state(),
                "torch_rng": torch.get_rng_state(),
                "step": self.step,
            },
            partial,
        )
        os.replace(partial, self.checkpoint)

    def _update_average(self) -> None:
        if self.average is None:
            return
        # A short run would otherwise still carry its first weights.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for name, parameter in self.trained.items():
            self.average[name].lerp_(parameter.detach(), 1 - decay)

    def run(
        self,
        loss_of_step: Callable[[int, torch.Generator], tuple[torch.Tensor, dict[str, float]]],
        log_every: int = 20,
    ) -> None:
        config = self.config
        started, since = time.monotonic(), self.step
        sums: dict[str, float] = {}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            while self.step < config.steps:
                factor = lr_factor(self.step, config)
                for optimizer in self.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = group["peak_lr"] * factor
                loss, numbers = loss_of_step(self.step, self.generator)
                loss.backward()
                norm = nn.utils.clip_grad_norm_(self.trained.values(), config.clip_grad_norm)
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                self._update_average()
                self.step += 1
                for key, value in {"loss": float(loss.detach()), "grad_norm": float(norm), **numbers}.items():
                    sums[key] = sums.get(key, 0.0) + value
                if self.step % log_every == 0:
                    rate = (time.monotonic() - started) / (self.step - since)
                    row = {"step": self.step, **{k: round(v / log_every, 5) for k, v in sums.items()}}
                    row |= {"seconds_per_step": round(rate, 3), "lr_factor": round(factor, 4)}
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
                    sums = {}
                if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                    self.save()

    def export_weights(self) -> None:
        """Put the weight average into the model, where one is kept."""
        if self.average is not None:
            for name, parameter in self.trained.items():
                parameter.data.copy_(self.average[name])
