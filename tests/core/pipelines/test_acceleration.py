# SPDX-License-Identifier: Apache-2.0
"""Speed options: caches count injected residuals once, everything can be taken back, compiled code is the same code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import CogVideoXDPMScheduler, FirstBlockCacheConfig, MagCacheConfig
from diffusers.hooks import apply_first_block_cache
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from hvg3d_core.pipelines import SpeedOptions, apply_speed_options
from hvg3d_core.pipelines.acceleration import cache_config, compile_blocks, uncompile
from hvg3d_core.pipelines.guidance import dynamic_guidance_scale

from ..models.tiny import tiny_base, tiny_model, tracking_latents, trained, video_inputs
from .test_pipeline import arguments, build, conditions, parts  # noqa: F401 - a fixture

REPEATS = 7
CACHES = [("pab", None), ("first_block", 1e9), ("taylorseer", 3)]


def deep_model(**config: Any) -> Any:
    """4 blocks: a cache has some in the middle."""
    return trained(tiny_model(tiny_base(num_layers=4), **config))


@torch.no_grad()
def repeat(model: Any, times: int = REPEATS, given: bool = True) -> list[torch.Tensor]:
    conditions = {"tracking_latents": tracking_latents()} if given else {}
    results = []
    for _ in range(times):
        with model.cache_context("cond_uncond"):
            results.append(model(**video_inputs(), **conditions, return_dict=False)[0])
    return results


class Pipe:
    """As much of a pipeline as the options touch. Timestep 500 is where PyramidAttentionBroadcast reuses."""

    def __init__(self, transformer: Any) -> None:
        self.transformer, self.scheduler, self.current_timestep = transformer, CogVideoXDPMScheduler(), 500

    def register_modules(self, **modules: Any) -> None:
        vars(self).update(modules)


@pytest.mark.parametrize("layout", [{}, {"num_control_blocks": 2}, {"chain_through_zero": True}])
@pytest.mark.parametrize(("cache", "strength"), CACHES)
def test_the_same_input_again_gives_the_same_output(cache: str, strength: float | None, layout: dict) -> None:
    """What a cache remembers of the base's blocks holds the injected residuals; they must not come a second time."""
    if layout.get("chain_through_zero"):
        layout["share_text_stream"] = True
    model = deep_model(**layout)
    (expected,) = repeat(model, 1)
    apply_speed_options(Pipe(model), SpeedOptions(cache=cache, cache_strength=strength))
    calls: list[int] = []
    handle = model.transformer_blocks[2].ff.net[0].proj.register_forward_hook(lambda *_: calls.append(1))
    copies: list[int] = []
    model.control_blocks[1].attn1.to_out[0].register_forward_hook(lambda *_: copies.append(1))
    for result in repeat(model):
        torch.testing.assert_close(result, expected, atol=2e-6, rtol=1e-5)
    if cache != "pab":  # which computes feed-forwards always
        assert len(calls) < REPEATS
    assert 0 < len(copies) < REPEATS  # the copy is not computed either
    handle.remove()


def test_magcache_too() -> None:
    model = deep_model()
    (expected,) = repeat(model, 1)
    model.enable_cache(MagCacheConfig(threshold=1e9, num_inference_steps=REPEATS, mag_ratios=torch.ones(REPEATS)))
    for result in repeat(model):
        torch.testing.assert_close(result, expected, atol=2e-6, rtol=1e-5)


def test_without_the_hooks_a_cache_would_count_twice() -> None:
    """The defect that the injection inside blocks is there for: diffusers' function alone, around ``enable_cache``."""
    (expected,) = repeat(deep_model(), 1)
    model = deep_model()
    apply_first_block_cache(model, FirstBlockCacheConfig(threshold=1e9))
    assert (repeat(model, 2)[1] - expected).abs().max() > 1e-2


def test_a_cache_is_off_again() -> None:
    model = deep_model()
    (expected,) = repeat(model, 1)
    pipe = Pipe(model)
    for cache, _ in CACHES:
        apply_speed_options(pipe, SpeedOptions(cache=cache))
        assert model.is_cache_enabled
        repeat(model, 2)
    apply_speed_options(pipe, SpeedOptions())
    assert not model.is_cache_enabled
    assert torch.equal(repeat(model, 1)[0], expected)
    with pytest.raises(ValueError, match="already"):
        for _ in range(2):
            model.enable_cache(FirstBlockCacheConfig())


def test_conditions_switched_off_half_way_are_not_remembered(parts: dict) -> None:  # noqa: F811
    """With a threshold that always skips: steps without control give what they give when there never was any."""
    pipeline = build(parts, trained(tiny_model(parts["base"])))
    apply_speed_options(pipeline, SpeedOptions(cache="first_block", cache_strength=1e9))
    predictions: dict[str, list[torch.Tensor]] = {}
    for name, settings in {"half": {"control_end": 0.5}, "never": {"control_end": 0.0}}.items():
        predictions[name] = []

        def keep(module: Any, args: Any, result: Any, name: str = name) -> None:
            predictions[name].append(result[0])

        handle = pipeline.transformer.register_forward_hook(keep)
        latents = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        frozen = lambda *_: {"latents": latents}  # noqa: E731, B023 - every step sees the same noise
        pipeline(
            **arguments(num_inference_steps=4, output_type="latent", latents=latents.clone()),
            **conditions(),
            **settings,
            callback_on_step_end=frozen,
        )
        handle.remove()
    half, never = predictions["half"], predictions["never"]
    assert (half[1] - never[1]).abs().max() > 1e-3
    assert not torch.equal(half[2], half[1])  # computed anew after the switch


def test_fused_projections_are_the_same_numbers_and_cost_no_memory() -> None:
    model = deep_model()
    names = set(model.state_dict())
    (expected,) = repeat(model, 1)
    pipe = Pipe(model)
    apply_speed_options(pipe, SpeedOptions(fuse_qkv=True))
    for block in (model.transformer_blocks[0], model.control_blocks[3]):
        attention = block.attn1
        assert (
            attention.to_k.weight.untyped_storage().data_ptr() == attention.to_qkv.weight.untyped_storage().data_ptr()
        )
    torch.testing.assert_close(repeat(model, 1)[0], expected, atol=1e-6, rtol=1e-5)
    apply_speed_options(pipe, SpeedOptions())
    assert set(model.state_dict()) == names
    assert torch.equal(repeat(model, 1)[0], expected)


def test_attention_backend_is_used_checked_and_taken_back() -> None:
    model = deep_model()
    (expected,) = repeat(model, 1)
    before = _AttentionBackendRegistry.get_active_backend()[0]
    pipe = Pipe(model)
    apply_speed_options(pipe, SpeedOptions(attention_backend="_native_math"))
    other = repeat(model, 1)[0]
    assert not torch.equal(other, expected)
    torch.testing.assert_close(other, expected, atol=1e-5, rtol=1e-4)
    assert _AttentionBackendRegistry.get_active_backend()[0] == before  # other models keep theirs
    apply_speed_options(pipe, SpeedOptions())
    assert torch.equal(repeat(model, 1)[0], expected)
    with pytest.raises(ValueError, match="attention_backend 'nonsense'"):
        apply_speed_options(pipe, SpeedOptions(attention_backend="nonsense"))


@pytest.mark.parametrize("finer", [False, True])
def test_compiled_beneath_hooks(finer: bool) -> None:
    """Every block runs the compiled function, also under a cache and group offloading, and no longer afterwards.

    The ``eager`` backend compiles nothing but traces everything, in seconds; what the real one gives is measured by
    the benchmark and by the slow test below.
    """
    model = deep_model()
    (expected,) = repeat(model, 1)
    cpu = torch.device("cpu")
    model.enable_group_offload(cpu, cpu, "block_level", num_blocks_per_group=1)
    compile_blocks(model, finer=finer, backend="eager")
    cache, strength = CACHES[2] if finer else CACHES[1]
    model.enable_cache(cache_config(Pipe(model), cache, strength))
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    for result in repeat(model, 5):
        torch.testing.assert_close(result, expected, atol=2e-6, rtol=1e-5)
    graphs = counters["stats"]["unique_graphs"]
    assert 1 <= graphs <= (8 if finer else 4)  # not one for each of the 8 blocks, or their 32 parts
    model.disable_cache()
    uncompile(model)
    counters.clear()
    assert torch.equal(repeat(model, 1)[0], expected)
    assert not counters["stats"]


@pytest.mark.slow
def test_inductor_gives_the_same_numbers() -> None:
    model = deep_model()
    (expected,) = repeat(model, 1)
    pipe = Pipe(model)
    apply_speed_options(pipe, SpeedOptions(compile=True))
    torch.testing.assert_close(repeat(model, 1)[0], expected, atol=1e-5, rtol=1e-4)
    apply_speed_options(pipe, SpeedOptions())
    assert torch.equal(repeat(model, 1)[0], expected)


def test_scheduler_keeps_the_models_noise_schedule(parts: dict) -> None:  # noqa: F811
    pipeline = build(parts, tiny_model(parts["base"]))
    own = pipeline.scheduler
    apply_speed_options(pipeline, SpeedOptions(scheduler="dpm"))
    assert isinstance(pipeline.scheduler, CogVideoXDPMScheduler)
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert torch.equal(pipeline.scheduler.alphas_cumprod, own.alphas_cumprod)
    assert torch.isfinite(pipeline(**arguments(output_type="latent"), **conditions()).frames).all()
    apply_speed_options(pipeline, SpeedOptions())
    assert pipeline.scheduler is own


def test_guidance_over_the_steps() -> None:
    scales = [dynamic_guidance_scale("steps", 6.0, step=i, timestep=0, steps=50) for i in range(50)]
    assert scales[0] == 1.0
    assert scales == sorted(scales)
    assert 6.4 < scales[-1] < 7.0
    with pytest.raises(ValueError, match="use_dynamic_cfg: 'often'"):
        dynamic_guidance_scale("often", 6.0, step=0, timestep=0, steps=50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "foo"}, "cache 'foo' is not one of none, pab"),
        ({"scheduler": "euler"}, "scheduler 'euler' is not one of ddim, dpm"),
        ({"cache_strength": 0.1}, "cache_strength: 0.1 is given, but no cache"),
        ({"cache": "first_block", "cache_strength": 0.0}, "must be greater than 0"),
        ({"cache": "taylorseer", "cache_strength": 2.5}, "must be whole for taylorseer"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeedOptions(**options)
