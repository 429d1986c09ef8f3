# SPDX-License-Identifier: Apache-2.0
"""The full-size networks: counted on the meta device; computed at full depth with narrower layers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor

from hvg3d_core.models import HVG3DTransformer3DModel
from hvg3d_core.models.configs import NAMES, transformer_config

from .das_reference import DiffusionAsShader, draw
from .tiny import point_inputs, randomise, trained

DIM, TIME = 3072, 512
# A block's numbers, counted by hand: two modulations with their norms, attention with its norms, feed-forward.
BLOCK = 2 * (6 * DIM * (TIME + 1) + 2 * DIM) + 4 * DIM * (DIM + 1) + 4 * 64 + 8 * DIM * DIM + 5 * DIM
BASE, POSITIONS = 5_570_479_680, (1, 226 + 13 * 30 * 45, DIM)


def split(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The stock network's arguments, and those that only ours has."""
    stock = inspect.signature(CogVideoXTransformer3DModel.__init__).parameters
    named = {k: v for k, v in config.items() if not k.startswith("_")}
    return {k: v for k, v in named.items() if k in stock}, {k: v for k, v in named.items() if k not in stock}


def on_meta(name: str, **changed: Any) -> HVG3DTransformer3DModel:
    with init_empty_weights(include_buffers=True), torch.device("meta"):
        return HVG3DTransformer3DModel.from_config(transformer_config(name) | changed)


def count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


def test_there_is_das_and_hvg3d_and_another_name_is_refused() -> None:
    assert set(NAMES) == {"das", "hvg3d-5b"}
    with pytest.raises(ValueError, match="'5b': there are das, hvg3d-5b"):
        transformer_config("5b")


def test_das_has_the_tensors_and_numbers_of_the_released_model() -> None:
    """18 copies: 470 tensors with 2.559 B numbers, 5.12 GB in bfloat16, on a base of 5.570 B."""
    model = on_meta("das")
    branch = model.control_parameters()
    assert len(branch) == 470
    assert count(branch) == 18 * BLOCK + 19 * (DIM * DIM + DIM) == 2_558_922_240
    assert round(2 * count(branch) / 1e9, 2) == 5.12
    assert count(model.parameters()) - count(branch) == BASE
    assert tuple(model.patch_embed.pos_embedding.shape) == POSITIONS
    assert {tuple(p.shape) for n, p in model.named_parameters() if n.startswith("fuse")} == {(DIM, DIM), (DIM,)}
    assert all(p.is_meta for p in model.parameters())
    assert model.config.chain_through_zero and model.config.share_text_stream and not model.config.point_cloud


def test_hvg3d_copies_all_42_blocks_and_adds_the_point_branch() -> None:
    """11.92 GB in bfloat16 with a D x D first layer; the point cloud's columns of it and its encoder come on top."""
    model = on_meta("hvg3d-5b")
    branch = count(model.control_parameters())
    points = count(p for n, p in model.named_parameters() if n.startswith("point_"))
    assert round(2 * (branch - points - DIM * DIM) / 1e9, 2) == 11.92
    assert branch - points == 42 * BLOCK + 43 * (DIM * DIM + DIM) + DIM * DIM
    assert points < 0.002 * branch
    assert count(model.parameters()) - branch == BASE
    assert not model.config.chain_through_zero and not model.config.share_text_stream


def test_the_base_of_both_is_the_stock_network() -> None:
    for name in NAMES:
        with torch.device("meta"):
            stock = CogVideoXTransformer3DModel(**split(transformer_config(name))[0])
        ours = on_meta(name).state_dict()
        for key, tensor in stock.state_dict().items():
            assert tuple(ours[key].shape) == tuple(tensor.shape)
        assert count(stock.parameters()) == BASE


# Full depth, 42 blocks and 18 or 42 copies, with every setting of the full-size configuration but those:
NARROW: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16, "text_embed_dim": 32}
SMALL: dict[str, Any] = {"sample_height": 8, "sample_width": 12, "sample_frames": 17, "max_text_seq_length": 226}
POINTS = {"point_dim": 32, "point_heads": 2, "point_head_dim": 16, "num_point_latents": 16}


def inputs(config: Any, batch: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    frames = (config["sample_frames"] - 1) // 4 + 1
    height, width = config["sample_height"], config["sample_width"]
    shape = (batch, frames, config["in_channels"], height, width)
    grid = (height // 2, width // 2)
    return {
        "hidden_states": torch.randn(shape, generator=generator),
        "encoder_hidden_states": torch.randn(
            batch, config["max_text_seq_length"], config["text_embed_dim"], generator=generator
        ),
        "timestep": torch.tensor([700, 20][:batch]),
        "image_rotary_emb": get_3d_rotary_pos_embed(config["attention_head_dim"], ((0, 0), grid), grid, frames),
    }


def tracking(config: Any, batch: int = 2) -> Tensor:
    return torch.randn(inputs(config, batch)["hidden_states"].shape, generator=torch.Generator().manual_seed(5))


def stock_and_ours(name: str, **changed: Any) -> tuple[CogVideoXTransformer3DModel, HVG3DTransformer3DModel]:
    base, control = split(transformer_config(name) | changed)
    torch.manual_seed(0)
    stock = CogVideoXTransformer3DModel(**base)
    randomise(stock.float(), 0.02).eval()
    return stock, HVG3DTransformer3DModel.from_transformer(stock, **control).eval()


@pytest.mark.parametrize("name", NAMES)
def test_untrained_at_full_depth_it_is_the_stock_network_bit_for_bit(name: str) -> None:
    stock, ours = stock_and_ours(name, **NARROW, **SMALL, **(POINTS if name == "hvg3d-5b" else {}))
    config = ours.config
    assert len(ours.transformer_blocks) == 42 and len(ours.control_blocks) == {"das": 18, "hvg3d-5b": 42}[name]
    conditions: dict[str, Any] = {"tracking_latents": tracking(config)}
    if config.point_cloud:
        conditions |= point_inputs(frames=config.sample_frames)
    with torch.no_grad():
        expected = stock(**inputs(config), return_dict=False)[0]
        assert torch.equal(ours(**inputs(config), **conditions, return_dict=False)[0], expected)
        assert not torch.equal(trained(ours)(**inputs(config), **conditions, return_dict=False)[0], expected)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NAMES)
def test_untrained_with_the_full_grid_it_is_the_stock_network_bit_for_bit(name: str) -> None:
    """All 42 layers, 226 x 4096 text and 60 x 90 latents as at full size; 128 wide instead of 3072, 9 frames."""
    changed = {"num_attention_heads": 2, "sample_frames": 9}
    stock, ours = stock_and_ours(name, **changed)
    config = ours.config
    conditions: dict[str, Any] = {"tracking_latents": tracking(config, 1)}
    if config.point_cloud:
        conditions |= point_inputs(1, frames=9)
    with torch.no_grad():
        expected = stock(**inputs(config, 1), return_dict=False)[0]
        found = ours(**inputs(config, 1), **conditions, return_dict=False)[0]
    assert expected.shape == (1, 3, 16, 60, 90)
    assert torch.equal(found, expected)


@pytest.mark.slow
def test_untrained_at_full_width_it_is_the_stock_network_bit_for_bit() -> None:
    """3072 wide, 48 heads, 4096 text features; 1 of the 42 layers and a small picture."""
    stock, ours = stock_and_ours("hvg3d-5b", num_layers=1, num_control_blocks=1, **SMALL)
    with torch.no_grad():
        expected = stock(**inputs(ours.config, 1), return_dict=False)[0]
        given = {"tracking_latents": tracking(ours.config, 1), **point_inputs(1, frames=17)}
        assert torch.equal(ours(**inputs(ours.config, 1), **given, return_dict=False)[0], expected)


@pytest.mark.gpu
def test_untrained_at_full_size_it_is_the_stock_network_bit_for_bit() -> None:
    """Nothing reduced: 5B base, 42 copies, 13 x 60 x 90 latents; random weights in bfloat16, 40 GB of GPU memory."""
    base, control = split(transformer_config("hvg3d-5b"))
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            stock = CogVideoXTransformer3DModel(**base).to(torch.bfloat16).eval()
            ours = HVG3DTransformer3DModel.from_transformer(stock, **control).eval()
    finally:
        torch.set_default_dtype(previous)
    with torch.no_grad():
        given = {k: _to_gpu(v) for k, v in inputs(ours.config, 1).items()}
        conditions = {"tracking_latents": _to_gpu(tracking(ours.config, 1))}
        conditions |= {k: v.cuda() for k, v in point_inputs(1, frames=49).items()}
        expected = stock(**given, return_dict=False)[0]
        assert torch.equal(ours(**given, **conditions, return_dict=False)[0], expected)


def _to_gpu(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(v.cuda() for v in value)
    return value.cuda().to(torch.bfloat16 if value.is_floating_point() else value.dtype)


def reference(config: Any, copies: int) -> DiffusionAsShader:
    frames = (config["sample_frames"] - 1) // 4 + 1
    model = DiffusionAsShader(
        layers=config["num_layers"],
        copies=copies,
        heads=config["num_attention_heads"],
        head_dim=config["attention_head_dim"],
        channels=config["out_channels"],
        text_dim=config["text_embed_dim"],
        time_dim=config["time_embed_dim"],
        num_tokens=config["max_text_seq_length"]
        + frames * (config["sample_height"] // 2) * (config["sample_width"] // 2),
    )
    return draw(model)


def test_the_reference_without_control_is_the_stock_network() -> None:
    """So that the oracle is itself held against something independent."""
    config = transformer_config("das") | NARROW | SMALL | {"num_layers": 4}
    stock = CogVideoXTransformer3DModel(**split(config)[0]).float()
    oracle = reference(config, 0)
    stock.load_state_dict(oracle.state_dict())
    with torch.no_grad():
        expected = stock.eval()(**inputs(config), return_dict=False)[0]
        found = oracle(*inputs(config).values())
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)


def test_the_das_configuration_at_full_depth_is_the_published_formula() -> None:
    """42 blocks, 18 chained copies on the shared text, 32 wide. In double precision, but for what diffusers computes
    in float32 whatever it is given: sinusoids and rotary embedding."""
    config = transformer_config("das") | NARROW | SMALL
    oracle = reference(config, 18).double()
    renamed = {
        name.replace("transformer_blocks_copy", "control_blocks")
        .replace("combine_linears", "zero")
        .replace("initial_combine_linear", "fuse"): tensor
        for name, tensor in oracle.state_dict().items()
    }
    model = HVG3DTransformer3DModel.from_config(config).double().eval()
    model.load_state_dict(renamed)
    given = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs(config).items()}
    given["image_rotary_emb"] = tuple(t.double() for t in given["image_rotary_emb"])
    condition = tracking(config).double()
    with torch.no_grad():
        expected = oracle(*given.values(), condition)
        found = model(**given, tracking_latents=condition, return_dict=False)[0]
        without = oracle(*given.values())
    assert (expected - without).abs().max() > 0.05 * without.std()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
