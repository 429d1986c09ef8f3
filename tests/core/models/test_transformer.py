# SPDX-License-Identifier: Apache-2.0
"""The control branch: it changes nothing untrained, computes what HVG-3D and DaS say, and learns in all its parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_dispatch import attention_backend
from torch import Tensor

from hvg3d_core.models import HVG3DTransformer3DModel

from .tiny import SIZE, TEXT, point_inputs, tiny_base, tiny_model, tracking_latents, trained, video_inputs

HVG: dict[str, Any] = {}
DAS: dict[str, Any] = {"chain_through_zero": True, "share_text_stream": True, "num_control_blocks": 1}
MODES = [HVG, {"chain_through_zero": True}, {"share_text_stream": True}, DAS, {"resampler": "interpolate"}]


def run(model: CogVideoXTransformer3DModel, **kwargs: Any) -> Tensor:
    return model(**video_inputs(), **kwargs, return_dict=False)[0]


def reference(model: HVG3DTransformer3DModel, tracking: Tensor, grid: Tensor, scale: float = 1.0) -> Tensor:
    """The whole forward pass written out from the formula of the articles, with the model's layers only."""
    video = video_inputs()
    x, text, rope = video["hidden_states"], video["encoder_hidden_states"], video["image_rotary_emb"]
    chained, shared = model.config.chain_through_zero, model.config.share_text_stream
    temb = model.time_embedding(model.time_proj(video["timestep"]))
    e, h = model.patch_embed(text, x).split([TEXT, x.shape[1] * (SIZE // 2) ** 2], dim=1)
    t = model.patch_embed(text, tracking)[:, TEXT:]
    frames = [model.point_patch_embed(frame).flatten(2).mT for frame in grid.unbind(1)]  # each (B, 16, D)
    c, c_text = model.fuse(torch.cat([h + t, torch.cat(frames, 1)], -1)), e
    for i, block in enumerate(model.transformer_blocks):
        h, e = block(h, e, temb, rope)
        if i < model.config.num_control_blocks:
            c, c_text = model.control_blocks[i](c, e if shared else c_text, temb, rope)
            z = c @ model.zero[i].weight.T + model.zero[i].bias
            c, h = (z if chained else c), h + scale * z
    out = model.proj_out(model.norm_out(model.norm_final(h), temb=temb))  # tokens in order frame, row, column
    out = out.view(2, x.shape[1], SIZE // 2, SIZE // 2, -1, 2, 2)  # channel, and row and column within the patch
    return torch.einsum("bfyxcij->bfcyixj", out).reshape(2, x.shape[1], -1, SIZE, SIZE)


@pytest.mark.parametrize("mode", MODES)
def test_untrained_it_is_the_base_model_bit_for_bit(mode: dict[str, Any]) -> None:
    base = tiny_base()
    model = tiny_model(base, **mode)
    for p in model.point_encoder.parameters():
        p.data.mul_(3)  # conditions that are anything but small
    assert torch.equal(run(model, tracking_latents=tracking_latents(), **point_inputs()), run(base))


def test_without_conditions_a_trained_one_is_the_base_model_bit_for_bit() -> None:
    base = tiny_base()
    model = trained(tiny_model(base))
    assert torch.equal(run(model), run(base))
    assert torch.equal(run(model, tracking_latents=tracking_latents(), control_scale=0.0), run(base))
    assert not torch.allclose(run(model, tracking_latents=tracking_latents()), run(base), atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("mode", MODES)
def test_it_computes_the_formula(mode: dict[str, Any], scale: float) -> None:
    model = trained(tiny_model(**mode))
    tracking, points = tracking_latents(), point_inputs()
    out = run(model, tracking_latents=tracking, **points, control_scale=scale)
    expected = reference(model, tracking, model.encode_point_cloud(**points), scale)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_the_four_modes_differ() -> None:
    """So that the test above can tell them apart: same weights, other wiring, other result."""
    base = tiny_base()
    model = trained(tiny_model(base))
    kwargs = {"tracking_latents": tracking_latents(), **point_inputs()}
    results = []
    for chained in (False, True):
        for shared in (False, True):
            other = tiny_model(base, chain_through_zero=chained, share_text_stream=shared)
            other.load_state_dict(model.state_dict())
            results.append(run(other, **kwargs))
    for i, a in enumerate(results):
        assert all((a - b).abs().max() > 1e-4 for b in results[:i])


def test_das_weights_give_das() -> None:
    """DaS's D x D first linear layer, beside zeros for the point cloud, is DaS's own branch, points or not."""
    model = trained(tiny_model(**DAS))
    dim = model.fuse.out_features
    with torch.no_grad():
        model.fuse.weight[:, dim:] = 0
    tracking, video = tracking_latents(), video_inputs()
    h = model.patch_embed(video["encoder_hidden_states"], video["hidden_states"])[:, TEXT:]
    t = model.patch_embed(video["encoder_hidden_states"], tracking)[:, TEXT:]
    control, _ = model._start_control(
        h, video["encoder_hidden_states"], video["hidden_states"], tracking, None, None, None
    )
    torch.testing.assert_close(
        control, F.linear(h + t, model.fuse.weight[:, :dim], model.fuse.bias), atol=1e-6, rtol=1e-5
    )
    assert torch.equal(run(model, tracking_latents=tracking, **point_inputs()), run(model, tracking_latents=tracking))


def test_a_sample_that_keeps_no_condition_gets_the_base_output() -> None:
    base = tiny_base()
    model = trained(tiny_model(base))
    conditions = {"tracking_latents": tracking_latents(), **point_inputs()}
    keep = torch.tensor([True, False])
    out = run(model, **conditions, tracking_keep=keep, points_keep=keep)
    torch.testing.assert_close(out[0], run(model, **conditions)[0], atol=1e-6, rtol=1e-5)
    assert torch.equal(out[1], run(base)[1])


def test_dropping_one_condition_is_not_giving_it() -> None:
    model = trained(tiny_model())
    tracking, points = tracking_latents(), point_inputs()
    out = run(
        model,
        tracking_latents=tracking,
        **points,
        tracking_keep=torch.tensor([True, False]),
        points_keep=torch.tensor([False, True]),
    )
    torch.testing.assert_close(out[0], run(model, tracking_latents=tracking)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[1], run(model, **points)[1], atol=1e-5, rtol=1e-5)
    assert (out[1] - run(model, tracking_latents=tracking, **points)[1]).abs().max() > 1e-4


def test_a_point_grid_made_before_gives_the_same_bits() -> None:
    for config in ({}, {"point_reference_features": True}):
        model = trained(tiny_model(**config))
        points = point_inputs()
        reference_latents = video_inputs()["hidden_states"][:, 0, 4:]
        grid = model.encode_point_cloud(**points, reference_latents=reference_latents)
        assert torch.equal(run(model, point_grid=grid), run(model, **points))


def test_reference_features_bring_the_image_into_the_grid() -> None:
    model = tiny_model(point_reference_features=True)
    points = point_inputs()
    latents = torch.randn(2, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    grids = [model.encode_point_cloud(**points, reference_latents=x) for x in (latents, -latents)]
    assert (grids[0] - grids[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="reference_latents"):
        model.encode_point_cloud(**points)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_the_zero_convolutions_first_and_then_everything(mode: dict[str, Any]) -> None:
    model = tiny_model(**mode)
    model.freeze_base()
    conditions = {"tracking_latents": tracking_latents(), **point_inputs()}
    target = torch.randn(2, 3, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(9))

    def gradients() -> dict[str, bool]:
        model.zero_grad(set_to_none=True)
        (run(model, **conditions) - target).square().mean().backward()
        return {n: p.grad is not None and bool(p.grad.any()) for n, p in model.named_parameters()}

    first = gradients()
    assert {n for n, has in first.items() if has} == {n for n in first if n.startswith("zero.")}
    steps = 3 if model.config.chain_through_zero else 1  # chained, fuse starts at zero too: one more layer to wake
    for _ in range(steps):
        with torch.no_grad():
            for p in model.control_parameters():
                if p.grad is not None:
                    p.add_(p.grad, alpha=-0.5 / max(float(p.grad.norm()), 1e-12))
        last = gradients()
    control = {id(p) for p in model.control_parameters()}
    expected = {n for n, p in model.named_parameters() if id(p) in control}
    assert {n for n, has in last.items() if has} == expected


def test_freeze_base_leaves_the_branch_alone() -> None:
    model = tiny_model()
    model.freeze_base()
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any(n.startswith(("transformer_blocks", "patch_embed", "norm", "proj_out", "time")) for n in trainable)
    assert len(trainable) == len(model.control_parameters())


@pytest.mark.parametrize("mode", [HVG, DAS])
def test_gradient_checkpointing_changes_nothing(mode: dict[str, Any]) -> None:
    model = trained(tiny_model(**mode))
    model.freeze_base()
    results = []
    for checkpointed in (False, True):
        if checkpointed:
            model.enable_gradient_checkpointing()
        model.zero_grad(set_to_none=True)
        out = run(model, tracking_latents=tracking_latents(), **point_inputs())
        out.square().mean().backward()
        results.append((out.detach(), [p.grad.clone() for p in model.control_parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


def test_save_and_load(tmp_path) -> None:
    model = trained(tiny_model(num_control_blocks=1, resampler="interpolate", tracking_range="zero_one"))
    model.save_pretrained(tmp_path)
    loaded = HVG3DTransformer3DModel.from_pretrained(tmp_path)
    for name, value in model.config.items():
        assert name.startswith("_") or loaded.config[name] == value
    conditions = {"tracking_latents": tracking_latents(), **point_inputs()}
    assert torch.equal(run(loaded, **conditions), run(model, **conditions))
    half = HVG3DTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_from_transformer_copies() -> None:
    base = tiny_base().to(torch.bfloat16)
    model = tiny_model(base, num_control_blocks=1)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.is_meta for p in model.parameters())
    for block in (model.transformer_blocks[0], model.control_blocks[0]):
        for a, b in zip(block.parameters(), base.transformer_blocks[0].parameters(), strict=True):
            assert torch.equal(a, b)
            assert a.data_ptr() != b.data_ptr()
    assert model.config.num_layers == 2
    assert (model.zero[0].weight == 0).all()
    assert model.point_resampler.nothing.logit.unique().item() == -4.0
    assert all(p.isfinite().all() for p in model.parameters())


def test_runs_in_bfloat16_with_coordinates_in_float32() -> None:
    """Points keep their precision: a shift that bfloat16 would not see changes the grid."""
    model = trained(tiny_model()).to(torch.bfloat16)
    inputs = {k: v.bfloat16() if k != "timestep" and k != "image_rotary_emb" else v for k, v in video_inputs().items()}
    points = point_inputs()
    out = model(**inputs, tracking_latents=tracking_latents().bfloat16(), **points).sample
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
    moved = points | {"points": points["points"] + torch.tensor([0.004, 0, 0])}  # at 3, bfloat16 steps are 0.016
    assert not torch.equal(model.encode_point_cloud(**points), model.encode_point_cloud(**moved))


def test_attention_backends_reach_every_block() -> None:
    """The stock model ignores set_attention_backend; ours follows, base and copies."""
    model = trained(tiny_model())
    before = run(model, tracking_latents=tracking_latents())
    with attention_backend("native"):  # setting a model's backend also changes the process's: this puts it back
        model.set_attention_backend("_native_math")
        attentions = [block.attn1 for block in (*model.transformer_blocks, *model.control_blocks)]
        assert all(a.processor._attention_backend == "_native_math" for a in attentions)
        torch.testing.assert_close(run(model, tracking_latents=tracking_latents()), before, atol=1e-5, rtol=1e-5)


def test_the_position_table_is_float32() -> None:
    assert tiny_base().patch_embed.pos_embedding.dtype == torch.float64  # what diffusers builds
    assert tiny_model().patch_embed.pos_embedding.dtype == torch.float32
    assert HVG3DTransformer3DModel(**dict(tiny_model().config)).patch_embed.pos_embedding.dtype == torch.float32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_control_blocks": 3}, "num_control_blocks 3"),
        ({"resampler": "nearest"}, "resampler 'nearest'"),
        ({"tracking_range": "bytes"}, "tracking_range 'bytes'"),
        ({"point_query_mode": "all"}, "query_mode 'all'"),
    ],
)
def test_bad_configurations_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model(**config)


def test_bad_conditions_are_named() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="tracking_latents: shape"):
        run(model, tracking_latents=tracking_latents()[:, :2])
    with pytest.raises(ValueError, match="point_grid: shape"):
        run(model, point_grid=torch.zeros(2, 3, 4, SIZE, SIZE))
    with pytest.raises(ValueError, match="points: shape"):
        run(model, points=torch.zeros(2, 9, 20))
