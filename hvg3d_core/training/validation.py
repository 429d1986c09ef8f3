# SPDX-License-Identifier: Apache-2.0
"""During training: videos of held-out clips, their distance from the truth, and the loss there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..conditions import Clip, network_inputs
from ..pipelines import HVG3DImageToVideoPipeline
from ..video import write_mp4
from .cache import Encoder, encode_sample
from .config import TrainConfig, TrainingError
from .dataset import UNREADABLE, Broken, find_samples
from .hardware import Hardware
from .loop import Trainer, seed_of

if TYPE_CHECKING:
    from .control import ControlStep
    from .start import Start


def psnr(generated: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """In dB, of uint8 videos T x H x W x 3, over all pixels or those of ``mask`` (T x H x W bool); nan for none."""
    squared = (generated.astype(np.float64) - truth.astype(np.float64)) ** 2
    chosen = squared if mask is None else squared[mask]
    if not chosen.size:
        return float("nan")
    mse = float(chosen.mean())
    return float("inf") if mse == 0 else 10 * float(np.log10(255.0**2 / mse))


class Validation:
    """Called by the trainer. The same clips, noise and seeds every time, so that only the weights make a difference.

    Writes ``validation/step_000100/NAME.mp4`` (truth above, generated below) and a row of ``validation.jsonl``. Where
    every process has all weights the clips are shared out; where weights are sharded all do every clip together.
    """

    def __init__(self, config: TrainConfig, start: Start, heldout: Path, hardware: Hardware) -> None:
        self.config, self.settings, self.hardware, self.start = config, config.control.validation, hardware, start
        video, broken = config.video, Broken()
        self.clips: list[tuple[str, Clip, np.ndarray]] = []
        for sample in find_samples(heldout):
            if len(self.clips) == self.settings.clips:
                break
            try:
                frames = sample.frames(video.width, video.height, video.num_frames)
                self.clips.append((sample.name, sample.clip(), frames))
            except UNREADABLE as error:
                broken.add(sample.name, error)
        if not self.clips:
            raise TrainingError(
                f"{heldout}: no readable clip to validate with; mend them, or set validation.every to 0"
            )
        self.prompts = [clip.prompt for _, clip, _ in self.clips]
        self.vae: Any = start.load_vae().to(hardware.device)

    def prepare(self, step: ControlStep) -> None:
        self.step = step
        encoder = Encoder(self.vae, self.hardware, self.start.tracking_range)
        self.rows = [encode_sample(encoder, clip, frames, self.config, name) for name, clip, frames in self.clips]

    def __call__(self, trainer: Trainer) -> None:
        hardware, folder = self.hardware, trainer.folder / "validation" / f"step_{trainer.step:06d}"
        was_training = trainer.model.training
        trainer.model.eval()
        mine = [i for i in range(len(self.clips)) if hardware.sharded or i % hardware.world == hardware.rank]
        numbers: dict[str, list[float]] = {}
        with torch.no_grad(), trainer.averaged():
            row = {"loss": self.loss(trainer)}
            for i in mine:
                name, clip, truth = self.clips[i]
                generated, mask = self.generate(trainer.model, i)
                for key, value in (("psnr", psnr(generated, truth)), ("psnr_region", psnr(generated, truth, mask))):
                    numbers.setdefault(f"{key}/{name}", []).append(value)
                if not (hardware.sharded and not hardware.main):
                    fps = len(truth) * clip.fps / clip.num_frames
                    write_mp4(folder / f"{name}.mp4", np.concatenate([truth, generated], axis=1), fps)
                    strip(truth, generated).save(folder / f"{name}.png")
        trainer.model.train(was_training)
        found = {key: values[0] for part in hardware.gather(numbers) for key, values in part.items()}
        for key in ("psnr", "psnr_region"):
            values = [value for name, value in found.items() if name.startswith(f"{key}/") and np.isfinite(value)]
            row[key] = float(np.mean(values)) if values else float("nan")
        if trainer.journal is not None:
            # JSON has no nan: a number that there is none of is left out.
            finite = {key: value for key, value in {**row, **dict(sorted(found.items()))}.items() if np.isfinite(value)}
            trainer.journal.row("validation.jsonl", {"step": trainer.step, **finite})
            print(f"validation at step {trainer.step}: {row}", flush=True)
            for name, _, _ in self.clips:
                with Image.open(folder / f"{name}.png") as picture:
                    trainer.journal.picture(f"validation/{name}", np.array(picture), trainer.step)

    def loss(self, trainer: Trainer) -> float:
        """Mean over ``loss_samples`` draws of noise, spread evenly over the noise levels; nothing is dropped."""
        draws, total, noising = self.settings.loss_samples, 0.0, self.step.noising
        for k in range(draws):
            row, prompt = self.rows[k % len(self.rows)], self.prompts[k % len(self.rows)]
            batch = {n: v[None].float() if v.is_floating_point() else v[None] for n, v in row.items()}
            if batch["image_latents"].ndim == 5:
                batch["image_latents"] = batch["image_latents"][:, 0]
            generator = torch.Generator().manual_seed(seed_of(self.settings.seed, "validation", k))
            clean = batch["latents"].to(self.hardware.device)
            noise = torch.randn(clean.shape, generator=generator).to(clean.device)
            timesteps = torch.tensor([int(1000 * (k + 0.5) / draws)], device=clean.device)
            noisy = noising.scheduler.add_noise(clean, noise, timesteps)
            total += float(self.step.loss(batch, [prompt], clean, noisy, timesteps)[0])
        return total / draws if draws else float("nan")

    def generate(self, model: Any, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(frames T x H x W x 3 uint8, mask of hand and object T x H x W) of one clip."""
        _, clip, truth = self.clips[index]
        video, settings, hardware = self.config.video, self.settings, self.hardware
        inputs = network_inputs(
            clip,
            num_frames=video.num_frames,
            width=video.width,
            height=video.height,
            num_points=video.num_points,
            visible_only=video.visible_only,
        )
        conditions = {name: getattr(inputs, name) for name in self.step.conditions}
        pipeline: Any = HVG3DImageToVideoPipeline(None, None, self.vae, model, self.start.sampling_scheduler())
        pipeline.set_progress_bar_config(disable=True)
        pipeline.memory_state.device = hardware.device
        embeds = self.step.embeddings.rows([clip.prompt, ""]).float().to(hardware.device)
        with hardware.autocast():
            output = pipeline(
                image=Image.fromarray(truth[0]),
                prompt_embeds=embeds[:1],
                negative_prompt_embeds=embeds[1:],
                height=video.height,
                width=video.width,
                num_frames=video.num_frames,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                generator=torch.Generator().manual_seed(seed_of(settings.seed, index)),
                tracking_video=inputs.tracking_video,
                output_type="np",
                **{name: torch.from_numpy(np.ascontiguousarray(value))[None] for name, value in conditions.items()},
            )
        frames = (np.clip(np.asarray(output.frames[0], np.float32), 0, 1) * 255).round().astype(np.uint8)
        return frames, inputs.masks > 0


def strip(truth: np.ndarray, generated: np.ndarray, columns: int = 6) -> Image.Image:
    """Truth above, generated below, at moments spread over the clip."""
    index = np.linspace(0, len(truth) - 1, min(columns, len(truth))).round().astype(int)
    return Image.fromarray(np.concatenate([np.concatenate(list(v[index]), axis=1) for v in (truth, generated)], axis=0))
