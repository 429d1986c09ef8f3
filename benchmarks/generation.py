# SPDX-License-Identifier: Apache-2.0
"""Seconds, memory, FLOPs and output of one video: stock diffusers, DaS's wiring, HVG-3D, and HVG-3D with each option.

All rows in one process, in turns, on the same scene, noise and weights. ``--size nano`` runs the shipped weights,
``5b`` the networks of CogVideoX-5B with random weights (for a GPU), ``tiny`` the code path of ``5b`` in seconds.

The floor of a row is its FLOPs, counted by torch, over the FLOP/s of a large matrix product measured at the start in
the row's type: what a machine that only multiplied matrices would need.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXTransformer3DModel,
)
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from hvg3d_core.checkpoints.registry import find_model
from hvg3d_core.conditions import load_clip, network_inputs
from hvg3d_core.generate import reference_image
from hvg3d_core.models import HVG3DTransformer3DModel
from hvg3d_core.models.configs import transformer_config
from hvg3d_core.pipelines import HVG3DImageToVideoPipeline, SpeedOptions, apply_speed_options
from hvg3d_core.pipelines.acceleration import arithmetic
from hvg3d_core.pipelines.memory import MODES
from hvg3d_core.pipelines.memory_needs import compute_needs, parameter_bytes, peak_activations

DEMO_CLIP = Path(__file__).parents[1] / "hvg3d_core/cli/assets/demo.clip.safetensors"
VAE_5B = {
    "down_block_types": ("CogVideoXDownBlock3D",) * 4,
    "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    "block_out_channels": (128, 256, 256, 512),
    "layers_per_block": 3,
    "latent_channels": 16,
    "sample_height": 480,
    "sample_width": 720,
    "scaling_factor": 0.7,
    "invert_scale_latents": True,
}
T5_XXL = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "d_kv": 64, "vocab_size": 32128}
TINY = {"num_layers": 4, "num_attention_heads": 4, "sample_height": 8, "sample_width": 12, "sample_frames": 9}


@dataclass
class Subject:
    """What the rows share: pipelines on the same weights, the scene and the settings."""

    pipelines: dict[str, Any]
    conditions: dict[str, Any]
    call: dict[str, Any]
    vae_config: dict[str, Any]
    text_config: dict[str, Any]
    device: str


@dataclass
class Row:
    name: str
    network: str  # a key of Subject.pipelines
    precision: str = "fp32"
    options: SpeedOptions = field(default_factory=SpeedOptions)
    call: dict[str, Any] = field(default_factory=dict)
    beside: str = ""  # the row that its output is compared with


@dataclass
class Measured:
    step: list[float] = field(default_factory=list)
    video: list[float] = field(default_factory=list)
    frames: np.ndarray | None = None
    flops: float = 0.0  # of one step that computes everything
    total_flops: float = 0.0  # of all steps
    peak: int = 0


def pipeline_of(transformer: Any, vae: Any, stock: bool = False) -> Any:
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    kind = CogVideoXImageToVideoPipeline if stock else HVG3DImageToVideoPipeline
    pipeline = kind(tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def stock_twin(model: HVG3DTransformer3DModel) -> CogVideoXTransformer3DModel:
    """diffusers' own network on the same tensors, not copies of them."""
    with torch.device("meta"):
        twin = CogVideoXTransformer3DModel.from_config(model.config)
    own = model.state_dict()
    twin.load_state_dict({name: own[name] for name in twin.state_dict()}, assign=True)
    return twin.eval()


@torch.no_grad()
def with_random_weights(config: dict[str, Any], device: str, dtype: torch.dtype) -> HVG3DTransformer3DModel:
    """Zero convolutions are random too: a branch that adds nothing would make every cache look perfect."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = HVG3DTransformer3DModel.from_config(config)
    finally:
        torch.set_default_dtype(default)
    for zero in model.zero:
        torch.nn.init.normal_(zero.weight, std=0.3 / zero.in_features**0.5)
    return model.to(device, dtype).eval()


@torch.no_grad()
def das_of(model: HVG3DTransformer3DModel, copies: int) -> HVG3DTransformer3DModel:
    """The nano's blocks in DaS's wiring: fewer copies, chained, on the base's text, without the point cloud."""
    config = dict(model.config) | {
        "num_control_blocks": copies,
        "chain_through_zero": True,
        "share_text_stream": True,
        "point_cloud": False,
        "point_reference_features": False,
        "point_reference_per_frame": False,
    }
    das = HVG3DTransformer3DModel.from_config(config)
    own, wanted = model.state_dict(), das.state_dict()
    fitting = {name: own[name] for name, x in wanted.items() if name in own and own[name].shape == x.shape}
    das.load_state_dict(fitting, strict=False)
    return das.to(model.device).eval()


def load_subject(size: str, device: str, steps: int, guidance: float | None) -> Subject:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if size == "5b" else torch.float32
    text_config: dict[str, Any] = T5_XXL | {"feed_forward_proj": "gated-gelu", "is_encoder_decoder": False}
    settings: dict[str, Any] = {"num_points": 2048, "visible_only": True}
    if size == "nano":
        entry = find_model("nano")
        loaded = HVG3DImageToVideoPipeline.from_pretrained(entry.path, dtype=dtype).to(device)
        transformer, vae, text = loaded.transformer.eval(), loaded.vae.eval(), loaded.text_encoder
        das = das_of(transformer, max(1, round(transformer.config.num_layers * 18 / 42)))
        guidance = entry.guidance_scale if guidance is None else guidance
        text_config = text.config.to_dict()
        settings = json.loads((Path(entry.path) / "hvg3d_inputs.json").read_text(encoding="utf-8"))
    else:
        changed = {} if size == "5b" else TINY
        das_changed = {} if size == "5b" else TINY | {"num_control_blocks": 2}
        hvg_changed = {} if size == "5b" else TINY | {"num_control_blocks": 4}
        transformer = with_random_weights(transformer_config("hvg3d-5b") | changed | hvg_changed, device, dtype)
        das = with_random_weights(transformer_config("das") | das_changed, device, dtype)
        vae_changed = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
        vae_changed |= {"sample_height": 64, "sample_width": 96}
        vae = AutoencoderKLCogVideoX(**(VAE_5B if size == "5b" else VAE_5B | vae_changed)).to(device, dtype).eval()
        guidance = 6.0 if guidance is None else guidance
    config = transformer.config
    height, width, frames = config.sample_height * 8, config.sample_width * 8, config.sample_frames
    clip = load_clip(DEMO_CLIP)
    inputs = network_inputs(clip, num_frames=frames, width=width, height=height, **settings)
    conditions: dict[str, Any] = {
        name: torch.from_numpy(np.ascontiguousarray(getattr(inputs, name)))[None]
        for name in ("points", "point_entity", "point_valid", "intrinsics", "world_to_camera")
    }
    conditions["tracking_video"] = inputs.tracking_video
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(2, 1, config.max_text_seq_length, config.text_embed_dim, generator=generator).to(device, dtype)
    pipelines = {
        "stock": pipeline_of(stock_twin(transformer), vae, stock=True),
        "das": pipeline_of(das, vae),
        "hvg": pipeline_of(transformer, vae),
    }
    call = {
        "image": reference_image(clip, width, height),
        "prompt_embeds": embeds[0],
        "negative_prompt_embeds": embeds[1],
        "height": height,
        "width": width,
        "num_frames": frames,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "output_type": "np",
    }
    return Subject(pipelines, conditions, call, dict(vae.config), text_config, device)


def rows_for(size: str, device: str, only: list[str] | None) -> list[Row]:
    """On a CPU full precision is the plain way, and bfloat16 an option; the 5B networks are bfloat16 throughout."""
    plain = "bf16" if size == "5b" else "fp32"
    hvg = "HVG-3D"

    def option(name: str, precision: str = plain, call: dict[str, Any] | None = None, **options: Any) -> Row:
        return Row(f"  {name}", "hvg", precision, SpeedOptions(**options), call or {}, hvg)

    rows = [
        Row("stock diffusers base", "stock", plain),
        Row("DaS wiring", "das", plain),
        Row("DaS wiring, options on", "das", "bf16", SpeedOptions(compile=True, fuse_qkv=True, cache="taylorseer")),
        Row(hvg, "hvg", plain),
    ]
    if plain == "fp32":
        rows += [option("bf16 arithmetic", "autocast"), option("bf16 weights", "bf16")]
    rows += [
        option("fused QKV", fuse_qkv=True),
        option("regional compile", compile=True),
        option("compile, bf16 weights", "bf16", compile=True),
        option("control in the first 40 %", call={"control_end": 0.4}),
        option("cache: pab", cache="pab"),
        option("cache: first_block", cache="first_block"),
        option("cache: taylorseer", cache="taylorseer"),
        option("dpm scheduler", scheduler="dpm"),
        option("options on", "bf16", compile=True, fuse_qkv=True, cache="taylorseer"),
    ]
    if device == "cuda":
        rows += [option(f"attention: {name}", attention_backend=name) for name in ("_native_cudnn", "_flash_3", "sage")]
    return [row for row in rows if not only or row.name.strip() in only]


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the best of several."""
    n = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(6):
        wait(device)
        started = time.perf_counter()
        torch.matmul(a, b)
        wait(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Casting:
    """Weights of all pipelines in one type at a time; the float32 originals are kept, for bf16 does not lead back."""

    def __init__(self, subject: Subject) -> None:
        parts = {id(m): m for p in subject.pipelines.values() for m in (p.transformer, p.vae)}
        self.parts, self.now = list(parts.values()), ""
        self.originals = [{k: v.data for k, v in named(m)} for m in self.parts]

    def to(self, precision: str) -> None:
        kind = "bf16" if precision == "bf16" else "fp32"
        if kind == self.now:
            return
        for module, original in zip(self.parts, self.originals, strict=True):
            for name, value in named(module):
                chosen = original[name]
                if chosen.is_floating_point():
                    value.data = chosen.to(torch.bfloat16) if kind == "bf16" else chosen
        self.now = kind


def named(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def run(subject: Subject, row: Row, casting: Casting | None, measured: Measured, *, count: bool = False) -> None:
    """One video. ``count``: count FLOPs and memory instead of time, both of which would disturb it."""
    pipeline, device = subject.pipelines[row.network], subject.device
    if casting is not None:
        casting.to(row.precision)
    if row.network != "stock":
        apply_speed_options(pipeline, SpeedOptions() if count and row.options.compile else row.options)
    given = {} if row.network == "stock" else dict(subject.conditions)
    if row.network == "das":
        given = {"tracking_video": given["tracking_video"]}
    call = subject.call | row.call
    if row.network == "stock":
        call["max_sequence_length"] = pipeline.transformer.config.max_text_seq_length
    dtype = next(pipeline.transformer.parameters()).dtype
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        call[name] = call[name].to(dtype)
    marks: list[float] = []

    def after_step(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        wait(device)
        marks.append(time.perf_counter())
        return tensors

    def make() -> Any:
        generator = torch.Generator(device="cpu").manual_seed(0)
        with arithmetic("autocast" if row.precision == "autocast" else "fp32", device):
            return pipeline(**call, **given, generator=generator, callback_on_step_end=after_step).frames

    if count:
        per_step: list[float] = []
        with FlopCounterMode(display=False) as flops:
            before = [0.0]
            call["output_type"] = "latent"

            def seen(module: Any, _args: Any, _kwargs: Any, _result: Any) -> None:
                per_step.append(flops.get_total_flops() - before[0])
                before[0] = flops.get_total_flops()

            start = pipeline.transformer.register_forward_pre_hook(
                lambda *_: before.__setitem__(0, flops.get_total_flops())
            )
            end = pipeline.transformer.register_forward_hook(seen, with_kwargs=True)
            make()
            start.remove()
            end.remove()
        measured.flops, measured.total_flops = max(per_step), sum(per_step)
        return
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    wait(device)
    started = time.perf_counter()
    video = make()
    wait(device)
    measured.video.append(time.perf_counter() - started)
    # The first step is timed from the second on: before it lies the encoding.
    measured.step.append((marks[-1] - marks[0]) / (len(marks) - 1))
    measured.frames = np.asarray(video[0], np.float32)
    if device == "cuda":
        measured.peak = torch.cuda.max_memory_allocated()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def table(results: dict[str, Measured], rows: list[Row], rates: dict[str, float], plain: str) -> str:
    lines = [
        "| | s/step | x HVG-3D | s/video | TFLOP/step | share of the floor | change: PSNR dB | peak GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reference = statistics.median(results[plain].step) if plain in results else float("nan")
    for row in rows:
        m = results[row.name]
        step = statistics.median(m.step)
        rate = rates["fp32" if row.precision == "fp32" else "bf16"]
        compared = results.get(row.beside)
        change = "" if compared is None else f"{psnr(m.frames, compared.frames):.1f}"
        lines.append(
            f"| {row.name.replace('  ', '- ', 1)} | {step:.4f} | {reference / step:.2f} | "
            f"{statistics.median(m.video):.2f} | {m.flops / 1e12:.4f} | {m.flops / rate / step:.2f} | {change} | "
            f"{f'{m.peak / 1e9:.2f}' if m.peak else ''} |"
        )
    return "\n".join(lines)


def claims(results: dict[str, Measured], rates: dict[str, float], size: str) -> list[str]:
    """The ratios that are aimed at, with what was measured. A cache's gain lies in computing less, so it is held
    against the floor of the whole computation."""

    def step(name: str) -> float:
        return statistics.median(results[name].step) if name in results else float("nan")

    def line(text: str, value: float, aim: float, at_least: bool) -> str:
        reached = value >= aim if at_least else value <= aim
        return (
            f"- {text}: {value:.2f} (aim: {'at least' if at_least else 'at most'} {aim}; {'yes' if reached else 'no'})"
        )

    lines = []
    if "HVG-3D" in results:
        kind = "bf16" if size == "5b" else "fp32"
        floor = results["HVG-3D"].flops / rates[kind]
        lines.append(line("HVG-3D without options, times its floor", step("HVG-3D") / floor, 1.6, False))
        floor = results["HVG-3D"].flops / rates["bf16"]
        lines.append(line("HVG-3D with options on, times the bf16 floor", step("  options on") / floor, 1.0, False))
    lines.append(
        line("DaS wiring, plain over options on", step("DaS wiring") / step("DaS wiring, options on"), 2.0, True)
    )
    if size != "5b":
        ratio = step("HVG-3D") / step("  compile, bf16 weights")
        lines.append(line("regional compile and bf16 together over eager fp32", ratio, 1.5, True))
        if "  compile, bf16 weights" in results and results["HVG-3D"].frames is not None:
            difference = np.abs(results["  compile, bf16 weights"].frames - results["HVG-3D"].frames)
            lines.append(
                f"  its output: largest difference of a pixel {difference.max():.3f} of 1, mean {difference.mean():.5f}"
            )
    return lines


def activations(subject: Subject, rows: list[Row], results: dict[str, Measured], casting: Casting | None) -> None:
    """On a CPU: weights, and what one step's tensors take at most, counted as they are made."""
    for row in rows:
        pipeline = subject.pipelines[row.network]
        if casting is not None:
            casting.to(row.precision)
        config, dtype = pipeline.transformer.config, next(pipeline.transformer.parameters()).dtype
        frames = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
        batch = 2 if subject.call["guidance_scale"] > 1 else 1
        x = torch.randn(batch, frames, config.in_channels, config.sample_height, config.sample_width, dtype=dtype)
        given: dict[str, Any] = {} if row.network == "stock" else {"tracking_latents": x}
        if row.network != "stock":
            apply_speed_options(pipeline, SpeedOptions())
        rotary = pipeline._prepare_rotary_positional_embeddings(
            config.sample_height * 8, config.sample_width * 8, frames, subject.device
        )
        text = torch.randn(batch, config.max_text_seq_length, config.text_embed_dim, dtype=dtype)
        arguments = {"hidden_states": x, "encoder_hidden_states": text, "timestep": torch.full((batch,), 500)}
        with arithmetic("autocast" if row.precision == "autocast" else "fp32", subject.device):
            step: Callable[[], Any] = lambda: pipeline.transformer(**arguments, image_rotary_emb=rotary, **given)  # noqa: B023, E731
            peak = peak_activations(step)
        results[row.name].peak = parameter_bytes(pipeline.transformer) + parameter_bytes(pipeline.vae) + peak


def memory_table(subject: Subject, size: str) -> str:
    config = dict(subject.pipelines["hvg"].transformer.config)
    guided = subject.call["guidance_scale"] > 1
    kinds = {"HVG-3D": config}
    if size == "5b":
        kinds["DaS"] = dict(subject.pipelines["das"].transformer.config)
    needs = {n: compute_needs(c, subject.vae_config, subject.text_config, guided=guided) for n, c in kinds.items()}
    lines = ["| memory mode | " + " | ".join(f"{n}, GB" for n in needs) + " |", "|---|" + "---|" * len(needs)]
    for name, mode in MODES.items():
        lines.append(f"| {name} | " + " | ".join(f"{n.peak(mode) / 1e9:.2f}" for n in needs.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("nano", "5b", "tiny"), default="nano")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, help="the model's own if left out; 1 is none")
    parser.add_argument("--repeat", type=int, default=2, help="videos of each row, after one to warm up")
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.size == "5b" and options.device == "cpu":
        sys.exit("--size 5b takes hours without a GPU; --size tiny runs the same code in seconds")
    subject = load_subject(options.size, options.device, options.steps, options.guidance)
    rows = rows_for(options.size, options.device, options.rows)
    casting = None if options.size == "5b" else Casting(subject)
    rates = {n: matmul_rate(options.device, t) for n, t in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    results = {row.name: Measured() for row in rows}
    usable = []
    for row in rows:
        try:
            started = time.perf_counter()
            run(subject, row, casting, Measured())  # warms up and compiles
            print(f"{row.name.strip()}: first video {time.perf_counter() - started:.1f} s", flush=True)
            usable.append(row)
        except ValueError as error:
            print(f"{row.name.strip()}: left out: {error}", flush=True)
    for _ in range(options.repeat):
        for row in usable:
            gc.collect()
            run(subject, row, casting, results[row.name])
    for row in usable:
        run(subject, row, casting, results[row.name], count=True)
    if options.device == "cpu":
        activations(subject, usable, results, casting)
    print(
        f"\n{options.size}, {subject.call['num_frames']} frames of {subject.call['width']} x {subject.call['height']}, "
        f"{options.steps} steps, guidance {subject.call['guidance_scale']}, {options.device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; median of {options.repeat}\n"
        f"matrix product: {rates['fp32'] / 1e12:.3f} TFLOP/s fp32, {rates['bf16'] / 1e12:.3f} bf16\n"
    )
    print(table(results, usable, rates, "HVG-3D"))
    print("\n" + "\n".join(claims(results, rates, options.size)))
    print("\nPeak memory on the device, computed, bf16 weights:\n\n" + memory_table(subject, options.size))
    if options.json:
        numbers = {r.name.strip(): {"step": results[r.name].step, "video": results[r.name].video} for r in usable}
        options.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    Image.MAX_IMAGE_PIXELS = None
    main()
