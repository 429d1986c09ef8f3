# SPDX-License-Identifier: Apache-2.0
"""A killed run that is started again ends with the weights of an unbroken one, to the last bit."""

import torch
from torch import nn

from hvg3d_core.training.config import StageConfig
from hvg3d_core.training.loop import Trainer
from hvg3d_core.training.optim import build_optimizers, lr_factor


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.frozen = nn.Linear(6, 6)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.frozen(x)


class Killed(Exception):
    pass


def run(folder, config, stop_at=None):
    model = Tiny()
    trainer = Trainer(model, config, folder)

    def loss_of_part(part):
        if part.step == stop_at:
            raise Killed
        x = torch.randn(8, 6, generator=part.generator)
        return (trainer.network(x) - x.flip(1)).square().mean(), {"x": float(x.mean())}

    trainer.run(loss_of_part)
    trainer.export_weights()
    return model.state_dict()


def test_resume_is_exact(tmp_path):
    config = StageConfig(steps=30, warmup=4, lr=1e-2, muon_lr=1e-2, ema=0.9, checkpoint_every=10, seed=3)
    whole = run(tmp_path / "whole", config)
    try:
        run(tmp_path / "broken", config, stop_at=17)
        raise AssertionError("the run was to be killed at step 17")
    except Killed:
        pass
    resumed = run(tmp_path / "broken", config)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert not torch.equal(whole["blocks.0.weight"], Tiny().state_dict()["blocks.0.weight"])


def test_frozen_weights_are_neither_trained_nor_saved(tmp_path):
    config = StageConfig(steps=5, warmup=1, checkpoint_every=5)
    weights = run(tmp_path, config)
    assert torch.equal(weights["frozen.weight"], Tiny().state_dict()["frozen.weight"])
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert not any(name.startswith("frozen") for name in saved["weights"])


def test_muon_takes_the_matrices_of_blocks_only():
    adamw, muon = build_optimizers(Tiny(), StageConfig(muon_lr=1e-2))
    assert all(p.ndim == 2 for group in muon.param_groups for p in group["params"])
    assert sum(len(group["params"]) for group in muon.param_groups) == 2
    assert sum(len(group["params"]) for group in adamw.param_groups) == 2  # the biases of the two blocks


def test_schedule_warms_up_and_decays_to_its_floor():
    config = StageConfig(steps=100, warmup=10, final_lr=0.1)
    factors = [lr_factor(step, config) for step in range(101)]
    assert factors[0] == 0.1
    assert max(factors) == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert abs(factors[100] - 0.1) < 1e-9
