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
from generation_subject import DEMO_CLIP, Casting, Subject, load_subject
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from hvg3d_core.conditions import load_clip
from hvg3d_core.generate import GenerationRequest, generate, load_model
from hvg3d_core.pipelines import HVG3DImageToVideoPipeline, SpeedOptions, apply_speed_options
from hvg3d_core.pipelines.acceleration import arithmetic
from hvg3d_core.pipelines.memory import MODES
from hvg3d_core.pipelines.memory_needs import compute_needs, parameter_bytes, peak_activations
from hvg3d_core.pipelines.windows import seam_frames, seam_ratio
from hvg3d_core.video import read_video


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


class CLOCK:
    now = staticmethod(time.perf_counter)


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}  # torch counts it as 0


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
    peak: int = 0


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
        started = CLOCK.now()
        torch.matmul(a, b)
        wait(device)
        best = max(best, 2 * n**3 / (CLOCK.now() - started))
    return best


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def reset_options(subject: Subject) -> None:
    for pipeline in subject.pipelines.values():
        if isinstance(pipeline, HVG3DImageToVideoPipeline):
            apply_speed_options(pipeline, SpeedOptions())


def run(
    subject: Subject,
    row: Row,
    casting: Casting | None,
    measured: Measured,
    *,
    count: bool = False,
    warm_up: bool = False,
) -> None:
    """One video. ``count``: count FLOPs of one step instead of time, which counting would disturb."""
    pipeline, device = subject.pipelines[row.network], subject.device
    reset_options(subject)  # weights are cast as they were loaded, not fused
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
        marks.append(CLOCK.now())
        return tensors

    def make() -> Any:
        generator = torch.Generator(device="cpu").manual_seed(0)
        with arithmetic("autocast" if row.precision == "autocast" else "fp32", device):
            return pipeline(**call, **given, generator=generator, callback_on_step_end=after_step).frames

    if count:
        call |= {"output_type": "latent", "num_inference_steps": 1}
        counted: list[float] = []
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as flops:
            transformer = pipeline.transformer
            hooks = [
                transformer.register_forward_pre_hook(lambda *_: counted.append(-flops.get_total_flops())),
                transformer.register_forward_hook(lambda *_: counted.append(flops.get_total_flops())),
            ]
            make()
            for hook in hooks:
                hook.remove()
        measured.flops = sum(counted)
        return
    if warm_up:
        call |= {"output_type": "latent", "num_inference_steps": 5}  # a cache has skipped by then
        make()
        return
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    wait(device)
    started = CLOCK.now()
    video = make()
    wait(device)
    measured.video.append(CLOCK.now() - started)
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
    return [text for text in lines if ": nan" not in text]  # of rows that were left out


def activations(subject: Subject, rows: list[Row], results: dict[str, Measured], casting: Casting | None) -> None:
    """On a CPU: weights, and what one step's tensors take at most, counted as they are made."""
    peaks: dict[tuple[str, str], int] = {}
    reset_options(subject)
    for row in rows:
        kind = (row.network, row.precision)
        if kind in peaks:
            results[row.name].peak = peaks[kind]
            continue
        pipeline = subject.pipelines[row.network]
        if casting is not None:
            casting.to(row.precision)
        config, dtype = pipeline.transformer.config, next(pipeline.transformer.parameters()).dtype
        frames = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
        batch = 2 if subject.call["guidance_scale"] > 1 else 1
        x = torch.randn(batch, frames, config.in_channels, config.sample_height, config.sample_width, dtype=dtype)
        given: dict[str, Any] = {} if row.network == "stock" else {"tracking_latents": x}
        rotary = pipeline._prepare_rotary_positional_embeddings(
            config.sample_height * 8, config.sample_width * 8, frames, subject.device
        )
        text = torch.randn(batch, config.max_text_seq_length, config.text_embed_dim, dtype=dtype)
        arguments = {"hidden_states": x, "encoder_hidden_states": text, "timestep": torch.full((batch,), 500)}
        with arithmetic("autocast" if row.precision == "autocast" else "fp32", subject.device):
            step: Callable[[], Any] = lambda: pipeline.transformer(**arguments, image_rotary_emb=rotary, **given)  # noqa: B023, E731
            peak = peak_activations(step)
        peaks[kind] = parameter_bytes(pipeline.transformer) + parameter_bytes(pipeline.vae) + peak
        results[row.name].peak = peaks[kind]


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


def whole_clips(repeat: int) -> str:
    """The demo's clip through ``generate``, from the clip to the frames: 17 of its 49 frames, and all in windows."""
    model, clip = load_model("nano", "cpu"), load_clip(DEMO_CLIP)
    scene, _ = read_video(DEMO_CLIP.parent / "scene.mp4")
    ways: dict[str, dict[str, Any]] = {"resampled": {}, "windows": {"length": "windows"}}
    ways |= {"windows, no overlap": {"length": "windows", "window_overlap": 0}}
    ways |= {"windows, reference generated": {"length": "windows", "window_reference": "generated"}}
    lines = ["| the demo's clip | frames | s | PSNR to the scene, dB | mean seam ratio |", "|---|---|---|---|---|"]
    for name, request in ways.items():
        seconds = []
        for _ in range(repeat):
            started = CLOCK.now()
            result = generate(model, clip, GenerationRequest(**request))
            seconds.append(CLOCK.now() - started)
        shown = scene[np.array(result.metadata["scene_frames"]) - clip.frame_range[0]]
        quality = psnr(result.frames[1:] / 255, shown[1:] / 255)
        seams = seam_frames(13, 5, request.get("window_overlap", 2)) if request else []
        ratios = [seam_ratio(result.frames, seam) for seam in seams]
        seam = f"{statistics.mean(ratios):.2f}" if ratios else ""
        lines.append(f"| {name} | {len(result.frames)} | {statistics.median(seconds):.1f} | {quality:.2f} | {seam} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("nano", "5b", "tiny"), default="nano")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, help="the model's own if left out; 1 is none")
    parser.add_argument("--repeat", type=int, default=2, help="videos of each row, after one to warm up")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: seconds of processor time, for a busy machine; needs OMP_NUM_THREADS=1",
    )
    parser.add_argument("--budget", type=float, default=150, help="seconds after which no repetition is begun")
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.size == "5b" and options.device == "cpu":
        sys.exit("--size 5b takes hours without a GPU; --size tiny runs the same code in seconds")
    if options.clock == "cpu" and (options.device != "cpu" or torch.get_num_threads() > 1):
        sys.exit("--clock cpu counts the seconds of all threads: set OMP_NUM_THREADS=1, and use --device cpu")
    CLOCK.now = staticmethod(time.process_time if options.clock == "cpu" else time.perf_counter)
    begun = time.perf_counter()
    subject = load_subject(options.size, options.device, options.steps, options.guidance)
    rows = rows_for(options.size, options.device, options.rows)
    casting = None if options.size == "5b" else Casting(subject)
    rates = {n: matmul_rate(options.device, t) for n, t in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    results = {row.name: Measured() for row in rows}
    usable = []
    for row in rows:
        try:
            started = time.perf_counter()
            run(subject, row, casting, results[row.name], warm_up=True)
            print(f"{row.name.strip()}: warmed up and compiled in {time.perf_counter() - started:.1f} s", flush=True)
            usable.append(row)
        except ValueError as error:
            print(f"{row.name.strip()}: left out: {error}", flush=True)
    passes = 0
    while passes < options.repeat:
        started = time.perf_counter()
        for row in usable:
            gc.collect()
            run(subject, row, casting, results[row.name])
        passes += 1
        now = time.perf_counter()
        if 2 * now - started - begun > options.budget:  # another pass would not fit
            break
    counted: dict[str, float] = {}
    for row in usable:
        if row.network not in counted:
            run(subject, row, casting, results[row.name], count=True)
        counted.setdefault(row.network, results[row.name].flops)
        results[row.name].flops = counted[row.network]
    if options.device == "cpu":
        activations(subject, usable, results, casting)
    print(
        f"\n{options.size}, {subject.call['num_frames']} frames of {subject.call['width']} x {subject.call['height']}, "
        f"{options.steps} steps, guidance {subject.call['guidance_scale']}, {options.device}, "
        f"{torch.get_num_threads()} threads, {options.clock} seconds, torch {torch.__version__}; median of {passes}\n"
        f"matrix product: {rates['fp32'] / 1e12:.3f} TFLOP/s fp32, {rates['bf16'] / 1e12:.3f} bf16\n"
    )
    print(table(results, usable, rates, "HVG-3D"), flush=True)
    print("\n" + "\n".join(claims(results, rates, options.size)), flush=True)
    print("\nPeak memory on the device, computed, bf16 weights:\n\n" + memory_table(subject, options.size))
    if options.size == "nano" and options.device == "cpu" and not options.rows:
        print("\n" + whole_clips(1), flush=True)
    if options.json:
        numbers = {r.name.strip(): {"step": results[r.name].step, "video": results[r.name].video} for r in usable}
        options.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
