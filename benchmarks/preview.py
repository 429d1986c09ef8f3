# SPDX-License-Identifier: Apache-2.0
"""What a live preview costs beside the step it shows, and how near it comes to the decoded frame.

``python benchmarks/preview.py`` makes one video of a clip with the shipped nano and prints, for every step, the time of
the step, of our preview and of the alternative (the VAE decodes the same latent frame), and the PSNR of both
against the middle frame of the finished video at the preview's size.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from hvg3d_core.conditions import load_clip
from hvg3d_core.generate import GenerationRequest, generate, load_model
from hvg3d_core.pipelines import preview as preview_module

ROOT = Path(__file__).parents[1]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=ROOT / "hvg3d_core/cli/assets/demo.clip.safetensors")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, help="folder for the pictures")
    given = parser.parse_args()
    model = load_model(given.model)
    clip = load_clip(given.clip)
    drawn: list[tuple[float, np.ndarray, float, np.ndarray, float]] = []
    plain = preview_module.LatentPreview.draw

    def draw(self: preview_module.LatentPreview, latents: torch.Tensor) -> np.ndarray:
        started = time.perf_counter()
        picture = plain(self, latents)
        ours = time.perf_counter() - started
        with torch.no_grad():
            pixels = model.pipeline.decode_latents(latents[None, None])
        decoded = ((pixels[0, :, 0].permute(1, 2, 0).float().cpu().numpy() + 1) * 127.5).clip(0, 255).astype(np.uint8)
        drawn.append((ours, picture, time.perf_counter() - started - ours, decoded, time.perf_counter()))
        return picture

    preview_module.LatentPreview.draw = draw  # type: ignore[method-assign]
    starts: list[float] = []

    def on_progress(phase: str, step: int, total: int, picture: np.ndarray | None) -> None:
        if phase == "denoise":
            starts.append(time.perf_counter())

    for _ in range(2):  # the first is a warm-up
        drawn.clear()
        starts.clear()
        request = GenerationRequest(model=given.model, num_inference_steps=given.steps)
        result = generate(model, clip, request, on_progress=on_progress)
    middle = result.frames[len(result.frames) // 2]
    rows, columns = drawn[0][1].shape[:2]
    small = middle.reshape(rows, middle.shape[0] // rows, columns, middle.shape[1] // columns, 3).mean(axis=(1, 3))
    print(f"{given.model}, {torch.get_num_threads()} threads, preview {columns} x {rows}")
    print("| step | step, ms | preview, ms | share | VAE, ms | share | preview, PSNR dB | VAE, PSNR dB |")
    print("|---|---|---|---|---|---|---|---|")
    shares = []
    for n, (ours, picture, decode, decoded, ended) in enumerate(drawn):
        step = ended - starts[n] - ours - decode
        shares.append(ours / step)
        vae = decoded.reshape(rows, decoded.shape[0] // rows, columns, decoded.shape[1] // columns, 3).mean(axis=(1, 3))
        print(
            f"| {n + 1} | {1e3 * step:.1f} | {1e3 * ours:.2f} | {ours / step:.1%} | {1e3 * decode:.1f} "
            f"| {decode / step:.1%} | {psnr(picture, small):.1f} | {psnr(vae, small):.1f} |"
        )
        if given.out is not None:
            from PIL import Image

            given.out.mkdir(parents=True, exist_ok=True)
            row = [Image.fromarray(x.astype(np.uint8)).resize((384, 256)) for x in (picture, vae, small)]
            Image.fromarray(np.concatenate([np.asarray(x) for x in row], axis=1)).save(given.out / f"{n + 1:03d}.png")
    print(f"preview: {statistics.median(shares):.1%} of a step (median)")


if __name__ == "__main__":
    main()
