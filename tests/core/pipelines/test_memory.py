# SPDX-License-Identifier: Apache-2.0
"""Memory modes: the same video from each, bytes that are true, and an out-of-memory error that says what to do."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks import HookRegistry
from diffusers.hooks.group_offloading import (
    _GROUP_OFFLOADING,
    _LAZY_PREFETCH_GROUP_OFFLOADING,
    LazyPrefetchGroupOffloadingHook,
)

from hvg3d_core.pipelines import MEMORY_MODES, OutOfMemory, next_mode, set_memory_mode
from hvg3d_core.pipelines.memory import (
    MODES,
    choose_mode,
    enable_vae_tiling,
    is_out_of_memory,
    memory_guard,
    retrace_prefetch,
)
from hvg3d_core.pipelines.memory_needs import (
    FakeTensorMode,
    compute_needs,
    parameter_bytes,
    peak_activations,
    transformer_bytes,
)

from ..models.tiny import tiny_model, trained
from .test_pipeline import PIXELS, arguments, build, conditions, parts  # noqa: F401 - a fixture

CPU = torch.device("cpu")


def in_mode(parts: dict[str, Any], mode: str) -> Any:  # noqa: F811
    own = {k: copy.deepcopy(v) if k in ("vae", "text_encoder") else v for k, v in parts.items()}
    pipeline = build(own, trained(tiny_model(parts["base"])))
    pipeline.vae.register_to_config(sample_height=2 * PIXELS, sample_width=2 * PIXELS)
    set_memory_mode(pipeline, mode, CPU)
    return pipeline


def test_every_mode_makes_the_video_and_only_fp8_changes_it(parts: dict) -> None:  # noqa: F811
    """Tiles are larger than this video, so that tiling is no difference here."""
    expected = build(parts, trained(tiny_model(parts["base"])))(**arguments(), **conditions()).frames
    for mode in MEMORY_MODES:
        pipeline = in_mode(parts, mode)
        for _ in range(2):  # the second time the prompt is remembered
            frames = pipeline(**arguments(), **conditions()).frames
            if MODES[mode].fp8:
                assert 0 < np.abs(frames - expected).mean() < 0.02
            else:
                np.testing.assert_allclose(frames, expected, atol=1e-5)
        with pytest.raises(ValueError, match=f'in mode "{mode}" already'):
            set_memory_mode(pipeline, "resident", CPU)


def test_text_encoder_runs_once_for_a_prompt(parts: dict) -> None:  # noqa: F811
    pipeline = in_mode(parts, "text_first")
    calls: list[int] = []
    pipeline.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    for prompt, expected in (("a hand", 2), ("a hand", 2), ("a cup", 4)):  # with the negative prompt, two at a time
        pipeline(**arguments(prompt=prompt, num_inference_steps=1, output_type="latent"))
        assert len(calls) == expected


def test_tiles_fit_at_any_size(parts: dict) -> None:  # noqa: F811
    """diffusers' default overlaps leave a column too many at this size; ours cover the video and nearly equal the
    whole."""
    vae = in_mode(parts, "text_first").vae
    vae.register_to_config(sample_height=128, sample_width=192)
    video = torch.rand(1, 3, 9, 128, 192, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        vae.disable_tiling()
        whole = vae.encode(video).latent_dist.mode()
        enable_vae_tiling(vae)
        tiled = vae.encode(video).latent_dist.mode()
        assert tiled.shape == whole.shape == (1, 4, 3, 16, 24)
        assert vae.decode(tiled).sample.shape == video.shape
    assert (tiled - whole).abs().mean() < 0.5 * whole.std()


def test_fp8_halves_the_blocks_and_spares_what_is_delicate(parts: dict) -> None:  # noqa: F811
    pipeline = in_mode(parts, "fp8")
    stored = {name: p.dtype for name, p in pipeline.transformer.named_parameters()}
    assert stored["control_blocks.0.attn1.to_q.weight"] == torch.float8_e4m3fn
    assert stored["transformer_blocks.1.ff.net.2.weight"] == torch.float8_e4m3fn
    for delicate in ("zero.0.weight", "fuse.weight", "point_encoder.embed.weight", "patch_embed.proj.weight"):
        assert stored[delicate] == torch.float32


def test_offloading_reaches_control_blocks_and_follows_a_change_of_order(parts: dict) -> None:  # noqa: F811
    """The prefetch order is learnt anew when the branch is switched off. Streams need a GPU; the order does not."""
    transformer = in_mode(parts, "group_offload").transformer
    blocks = [*transformer.transformer_blocks, *transformer.control_blocks, *transformer.zero]
    groups = [block._diffusers_hook.get_hook(_GROUP_OFFLOADING) for block in blocks]
    assert None not in groups
    registry = HookRegistry.check_if_exists_or_initialize(transformer)
    registry.register_hook(LazyPrefetchGroupOffloadingHook(), _LAZY_PREFETCH_GROUP_OFFLOADING)  # as streams do
    pipeline = build(parts, transformer)

    def chain() -> list[int]:
        """The blocks in the order in which they are fetched."""
        order, group = [], registry.get_hook(_GROUP_OFFLOADING).next_group
        while group is not None:
            order.append([hook.group for hook in groups].index(group))
            group = groups[order[-1]].next_group
        return order

    pipeline(**arguments(num_inference_steps=1, output_type="latent"), **conditions())
    assert chain() == [0, 2, 4, 1, 3, 5]  # block, its copy, its zero convolution
    expected = build(parts, trained(tiny_model(parts["base"])))(**arguments(), **conditions(), control_end=0.5).frames
    np.testing.assert_allclose(pipeline(**arguments(), **conditions(), control_end=0.5).frames, expected, atol=1e-5)
    assert chain() == [0, 1]
    retrace_prefetch(transformer)
    retrace_prefetch(transformer)  # before a forward pass came in between
    pipeline(**arguments(num_inference_steps=1, output_type="latent"), **conditions())
    assert chain() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_computed_bytes_are_a_real_models(parts: dict, dtype: torch.dtype) -> None:  # noqa: F811
    model = tiny_model(parts["base"]).to(dtype)
    computed = transformer_bytes(dict(model.config), dtype)
    assert computed["transformer"] == sum(x.numel() * x.element_size() for x in model.state_dict().values())
    real = [sum(p.numel() * p.element_size() for p in b.parameters()) for b in model.transformer_blocks]
    assert computed["block"] == max(real)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    assert computed["transformer"] - computed["fp8_saves"] == parameter_bytes(model)


def test_fake_tensors_tell_the_peak_of_real_ones() -> None:
    def run() -> torch.Tensor:
        layers = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
        return layers(torch.ones(1000, 64)).sum()

    real = peak_activations(run)
    with FakeTensorMode():
        assert peak_activations(run) == real
    # by hand: both hidden arrays of 1000 x 256, the input, and the weights
    assert real == 4 * (2 * 1000 * 256 + 1000 * 64 + 64 * 256 + 256 + 256 * 64 + 64)


def test_modes_are_ordered_by_need(parts: dict) -> None:  # noqa: F811
    """At the sizes of the tests; for the networks of 5B see docs/speed_and_memory.md."""
    needs = compute_needs(
        dict(tiny_model(parts["base"]).config),
        dict(parts["vae"].config),
        parts["text_encoder"].config.to_dict(),
        torch.float32,
    )
    assert needs.text_encoder == parameter_bytes(parts["text_encoder"])
    assert needs.vae == parameter_bytes(parts["vae"])
    peaks = [needs.peak(MODES[name]) for name in MEMORY_MODES]
    assert peaks[0] > peaks[1] > peaks[2]
    assert peaks[3] <= peaks[1]


def test_the_fastest_mode_that_fits() -> None:
    needs = dict(zip(MEMORY_MODES, (49, 28, 18, 10), strict=True))
    assert [choose_mode(free, needs) for free in (80, 40, 24, 16, 4)] == [*MEMORY_MODES, MEMORY_MODES[-1]]
    assert choose_mode(30, needs) == "fp8"  # 28 would fit without headroom
    assert choose_mode(None, {}) == "resident"
    assert [next_mode(mode) for mode in MEMORY_MODES] == [*MEMORY_MODES[1:], None]
    with pytest.raises(ValueError, match="memory_mode 'tiny' is not one of resident, text_first, fp8, group_offload"):
        next_mode("tiny")


def test_out_of_memory_names_the_next_mode() -> None:
    """A real allocation that fails, of more memory than any machine has."""
    said = 'memory_mode "resident": use memory_mode "text_first"'
    with pytest.raises(OutOfMemory, match=said) as caught, memory_guard("resident"):
        torch.empty(2**55, dtype=torch.uint8)
    assert (caught.value.mode, caught.value.next_mode) == ("resident", "text_first")
    assert is_out_of_memory(caught.value)
    with pytest.raises(OutOfMemory, match="the smallest mode: make fewer frames"), memory_guard("group_offload"):
        torch.empty(2**55, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="must match"), memory_guard("resident"):
        torch.zeros(2) + torch.zeros(3)


LIMITED = """
import resource, sys, torch
from hvg3d_core.conditions import load_clip
from hvg3d_core.generate import GenerationRequest, OutOfMemory, generate, load_model
torch.set_num_threads(1)
model = load_model("nano", "cpu", sys.argv[1])
clip = load_clip("hvg3d_core/cli/assets/demo.clip.safetensors")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 450 * 2**20, resource.RLIM_INFINITY))
try:
    result = generate(model, clip, GenerationRequest(num_inference_steps=1))
    print("MADE", result.frames.shape, result.metadata["request"]["memory_mode"])
except OutOfMemory as error:
    print("SAID", error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process's memory the Linux way")
def test_a_generation_that_runs_out_names_a_mode_and_that_one_does_it() -> None:
    """Two processes with 450 MB beside what they hold when the model is loaded."""
    said = {}
    for mode in ("resident", "text_first"):
        run = subprocess.run([sys.executable, "-c", LIMITED, mode], capture_output=True, text=True, timeout=240)
        said[mode] = run.stdout + run.stderr
    assert 'SAID out of memory in memory_mode "resident": use memory_mode "text_first"' in said["resident"]
    assert "MADE (17, 128, 192, 3) text_first" in said["text_first"]
