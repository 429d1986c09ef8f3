# SPDX-License-Identifier: Apache-2.0
"""The state of a run on disk. Whenever the run is killed, the last complete checkpoint is there.

Where every process has all weights it is one file, ``checkpoint.pt``, written beside and moved over the old one. Where
weights are sharded, every process writes its part into a new folder, and ``checkpoint.txt`` names the complete one.
"""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import TrainingError
from .hardware import Hardware

FILE, POINTER = "checkpoint.pt", "checkpoint.txt"


def write_durably(path: Path, write: Any) -> None:
    """``write(file)`` beside ``path``, through to the disk, and then over it."""
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class Checkpoints:
    def __init__(
        self, folder: Path, hardware: Hardware, model: nn.Module, optimizers: list[torch.optim.Optimizer]
    ) -> None:
        self.folder, self.hardware, self.model, self.optimizers = folder, hardware, model, optimizers
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def save(self, progress: dict[str, Any], average: dict[str, torch.Tensor] | None) -> None:
        """``progress``: numbers, texts and random states, which every process has alike."""
        if self.hardware.sharded:
            self._save_parts(progress, average)
        elif self.hardware.main:
            state = {
                "weights": {name: p.detach() for name, p in self.trained.items()},
                "average": average,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                **progress,
            }
            write_durably(self.folder / FILE, lambda file: torch.save(state, file))
        self.hardware.wait()

    def load(self, average: dict[str, torch.Tensor] | None) -> dict[str, Any] | None:
        """Put the last checkpoint into network, optimisers and ``average``; returns its progress, None without one.

        Raises TrainingError where it is that of another network or cannot be read.
        """
        if self.hardware.sharded:
            return self._load_parts(average)
        path = self.folder / FILE
        if not path.exists():
            if (self.folder / POINTER).exists():
                raise self._other_strategy("the parts of a sharded run")
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise TrainingError(f"{path}: it cannot be read ({error}); delete it to start anew") from None
        self._check_names(path, state["weights"])
        self.model.load_state_dict(state["weights"], strict=False)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            with_own_settings(optimizer, saved)
        if average is not None and state["average"] is not None:
            for name, value in average.items():
                value.copy_(state["average"][name])
        return {key: value for key, value in state.items() if key not in ("weights", "average", "optimizers")}

    def _check_names(self, path: Path, weights: dict[str, torch.Tensor]) -> None:
        different = set(weights) ^ set(self.trained)
        different |= {n for n in set(weights) & set(self.trained) if weights[n].shape != self.trained[n].shape}
        if different:
            raise TrainingError(
                f"{path}: it is of another network ({len(different)} weights differ, such as {min(different)}); "
                "use another --out, or delete it to start anew"
            )

    def _other_strategy(self, found: str) -> TrainingError:
        return TrainingError(
            f"{self.folder}: the checkpoint there is {found}; resume with the hardware.strategy it was made with, or "
            "start anew in another --out"
        )

    # Sharded.

    def _parts(self, average: dict[str, torch.Tensor] | None) -> dict[str, Any]:
        """What there is to save, or to load into."""
        names = {id(p): name for name, p in self.trained.items()}
        moments: dict[str, torch.Tensor] = {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    state = optimizer.state[p]
                    if not state:  # as AdamW begins; FSDP goes with no other optimiser
                        counter = p.device if group.get("fused") else "cpu"
                        state["step"] = torch.zeros((), dtype=torch.float32, device=counter)
                        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                    moments |= {f"{names[id(p)]}.{key}": value for key, value in state.items()}
        weights = {name: p.detach() for name, p in self.trained.items()}
        return {"weights": weights, "moments": moments} | ({} if average is None else {"average": average})

    def _save_parts(self, progress: dict[str, Any], average: dict[str, torch.Tensor] | None) -> None:
        name = f"checkpoint_{progress['step']:08d}"
        target = self.folder / name
        if self.hardware.main:
            shutil.rmtree(target, ignore_errors=True)
        self.hardware.wait()
        if self.hardware.deepspeed:
            self.hardware.accelerator.save_state(str(target))
        else:
            import torch.distributed.checkpoint as dcp

            dcp.save(self._parts(average), checkpoint_id=str(target))
        if self.hardware.main:
            torch.save(progress, target / "progress.pt")
        self.hardware.wait()
        if self.hardware.main:
            write_durably(self.folder / POINTER, lambda file: file.write(name.encode()))
            for old in self.folder.glob("checkpoint_*"):
                if old.name != name:
                    shutil.rmtree(old, ignore_errors=True)

    def _load_parts(self, average: dict[str, torch.Tensor] | None) -> dict[str, Any] | None:
        pointer = self.folder / POINTER
        if not pointer.exists():
            if (self.folder / FILE).exists():
                raise self._other_strategy("a whole one")
            return None
        target = self.folder / pointer.read_text(encoding="utf-8").strip()
        if self.hardware.deepspeed:
            self.hardware.accelerator.load_state(str(target))
        else:
            import torch.distributed.checkpoint as dcp

            dcp.load(self._parts(average), checkpoint_id=str(target))  # into the tensors that are there
        return torch.load(target / "progress.pt", weights_only=True)


SETTINGS = ("peak_lr", "weight_decay", "betas")


def own_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{key: group[key] for key in SETTINGS if key in group} for group in optimizer.param_groups]


def restore_settings(optimizer: torch.optim.Optimizer, settings: list[dict[str, Any]]) -> None:
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)


def with_own_settings(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a state, but keep what the configuration says, should it have changed since."""
    settings = own_settings(optimizer)
    optimizer.load_state_dict(saved)
    restore_settings(optimizer, settings)
