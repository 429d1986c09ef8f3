# SPDX-License-Identifier: Apache-2.0
"""Optimisers and the schedule of their rates."""

from __future__ import annotations

import math

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
    on_gpu = any(parameter.is_cuda for parameter in decay + plain)
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True if on_gpu else None)
    optimizers: list[torch.optim.Optimizer] = [adamw]
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
    """Linear warm-up, then the peak for ever, or ``cycles`` cosines from 1 to ``final_lr``."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    if progress < 1.0:
        progress = progress * config.cycles % 1.0
    return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
