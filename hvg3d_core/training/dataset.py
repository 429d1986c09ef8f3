# SPDX-License-Identifier: Apache-2.0
"""Training clips: in a folder, or in the tar files of a WebDataset.

A sample is ``NAME.clip.safetensors`` and its frames, ``NAME.mp4`` or ``NAME.png`` (the frames stacked from top to
bottom), side by side in the folder or in one ``*.tar``. What ``hvg3d data render`` writes is such a folder.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from PIL import Image

from ..conditions import Clip, ClipError, clip_from_bytes, fit_size, resample_indices
from .config import TrainingError

log = logging.getLogger(__name__)
CLIP_SUFFIX = ".clip.safetensors"
FRAME_SUFFIXES = (".png", ".mp4")
UNREADABLE = (OSError, ValueError, EOFError, MemoryError, Image.DecompressionBombError, av.FFmpegError)


@dataclass(frozen=True)
class Piece:
    """A file, or a part of a tar file."""

    path: Path
    offset: int = 0
    size: int | None = None  # None: to the end

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read() if self.size is None else file.read(self.size)
        if self.size is not None and len(data) != self.size:
            raise ClipError(f"{self.path}: it ends in the middle of a sample")
        return data


@dataclass(frozen=True)
class Sample:
    """One clip with its frames: ``frames()`` is T x H x W x 3 uint8, ``clip()`` the conditions for it."""

    name: str
    video: Piece
    video_kind: str  # one of FRAME_SUFFIXES
    clip_piece: Piece

    def clip(self) -> Clip:
        return clip_from_bytes(self.clip_piece.read(), self.name + CLIP_SUFFIX)

    def source_frames(self) -> np.ndarray:
        """T x H x W x 3 uint8, as they were recorded; as many as the clip has. Raises ClipError."""
        clip = self.clip()
        data, where = io.BytesIO(self.video.read()), self.name + self.video_kind
        if self.video_kind == ".png":
            with Image.open(data) as image:
                pixels = np.array(image.convert("RGB"))
            if pixels.shape[0] % clip.num_frames:
                raise ClipError(
                    f"{where}: {pixels.shape[0]} rows are not {clip.num_frames} frames, which the clip has, stacked"
                )
            frames = pixels.reshape(clip.num_frames, -1, *pixels.shape[1:])
        else:
            with av.open(data, "r") as container:
                frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
            if len(frames) != clip.num_frames:
                raise ClipError(f"{where}: {len(frames)} frames, but the clip has {clip.num_frames}")
        height, width = frames.shape[1:3]
        # H.264 pads odd sizes by one pixel; otherwise both must show the same picture.
        if abs(width * clip.height - height * clip.width) > 2 * max(clip.width, clip.height):
            raise ClipError(f"{where}: {width}x{height} has not the aspect of the clip, {clip.width}x{clip.height}")
        return frames

    def frames(self, width: int, height: int, num_frames: int | None = None) -> np.ndarray:
        """The frames scaled to cover this size and cropped about the centre, and ``num_frames`` of them, evenly: just
        as the clip's conditions are. Raises ClipError where there are too few."""
        frames = self.source_frames()
        wanted = len(frames) if num_frames is None else num_frames
        if len(frames) < wanted:
            raise ClipError(f"{self.name}: {len(frames)} frames where the configuration says {wanted}")
        return fitted(frames[resample_indices(len(frames), wanted)], width, height)


def fitted(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """T x H x W x 3 uint8 of another size; those of the right size are left as they are."""
    h, w = frames.shape[1:3]
    if (w, h) == (width, height):
        return frames
    left, top, right, bottom = fit_size(w, h, width, height).box()
    box = (left, top, min(right, w), min(bottom, h))
    return np.stack(
        [np.array(Image.fromarray(f).resize((width, height), Image.Resampling.LANCZOS, box=box)) for f in frames]
    )


def find_samples(folder: str | Path) -> list[Sample]:
    """All samples of a folder, in the order of their names, those of its tar files after it.

    A clip without frames, or frames without a clip, are reported. Raises ClipError when there is no sample.
    """
    folder = Path(folder)
    found, lonely = _in_folder(folder)
    for shard in sorted(folder.glob("*.tar")):
        try:
            more, alone = _in_shard(shard)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise ClipError(f"{shard}: not a readable tar file ({error}); fetch or write it again") from None
        found += more
        lonely += alone
    for name in lonely:
        log.warning(
            "left out %s: a sample is NAME%s and NAME.mp4 or NAME.png, and one of the two is missing", name, CLIP_SUFFIX
        )
    names = [sample.name for sample in found]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ClipError(f"{folder}: {twice} is there more than once; rename one of them")
    if not found:
        raise ClipError(
            f"{folder}: no clips there (NAME.mp4 or NAME.png beside NAME{CLIP_SUFFIX}, or *.tar with these); "
            "render some first (hvg3d data render)"
        )
    return found


def _pair(pieces: dict[str, dict[str, Piece]]) -> tuple[list[Sample], list[str]]:
    found, lonely = [], []
    for name in sorted(pieces):
        kinds = pieces[name]
        video = next((kind for kind in FRAME_SUFFIXES if kind in kinds), None)
        if video is None or CLIP_SUFFIX not in kinds:
            lonely.append(name)
        else:
            found.append(Sample(name, kinds[video], video, kinds[CLIP_SUFFIX]))
    return found, lonely


def _split(name: str) -> tuple[str, str] | None:
    """(NAME, suffix) of a file that is part of a sample."""
    for suffix in (CLIP_SUFFIX, *FRAME_SUFFIXES):
        if name.endswith(suffix) and not name.startswith("."):
            return name.removesuffix(suffix), suffix
    return None


def _in_folder(folder: Path) -> tuple[list[Sample], list[str]]:
    pieces: dict[str, dict[str, Piece]] = {}
    with os.scandir(folder) if folder.is_dir() else _nothing() as entries:
        for entry in entries:
            if (parts := _split(entry.name)) is not None:
                pieces.setdefault(parts[0], {})[parts[1]] = Piece(Path(entry.path))
    # A picture beside clips may be anything, such as a contact sheet; a clip without frames is worth a word.
    with_clip = {name: kinds for name, kinds in pieces.items() if CLIP_SUFFIX in kinds}
    return _pair(with_clip)


class _nothing:
    def __enter__(self) -> tuple[()]:
        return ()

    def __exit__(self, *_: object) -> None:
        return None


def _in_shard(shard: Path) -> tuple[list[Sample], list[str]]:
    """Only headers are read; contents are later, where they lie."""
    pieces: dict[str, dict[str, Piece]] = {}
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            if member.isfile() and (parts := _split(Path(member.name).name)) is not None:
                pieces.setdefault(parts[0], {})[parts[1]] = Piece(shard, member.offset_data, member.size)
    return _pair(pieces)


@dataclass
class Broken:
    """Samples that were left out, and why."""

    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, ClipError) else str(error)
        self.reasons[name] = reason
        log.warning("left out %s: %s", name, reason)

    def check(self, total: int, max_share: float) -> None:
        """Raise TrainingError where more than that share of ``total`` is broken."""
        if len(self.reasons) > max_share * total:
            name, reason = next(iter(self.reasons.items()))
            raise TrainingError(
                f"{len(self.reasons)} of {total} samples are broken, more than data.max_broken_share, {max_share}; "
                f"the first: {name}: {reason}. Mend or remove them, or raise that share"
            )

    def write(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        lines = (json.dumps({"name": n, "reason": r}) + "\n" for n, r in self.reasons.items())
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(path)


def load_frames(
    samples: Iterable[Sample], width: int, height: int, num_frames: int, max_broken_share: float = 1.0
) -> list[tuple[Sample, np.ndarray]]:
    """The frames of every readable sample; a broken one is reported and left out, if not too many are."""
    loaded, broken = [], Broken()
    for sample in samples:
        try:
            loaded.append((sample, sample.frames(width, height, num_frames)))
        except UNREADABLE as error:
            broken.add(sample.name, error)
    if not loaded:
        raise ClipError("not one sample could be read; the reasons are in the log above")
    broken.check(len(loaded) + len(broken.reasons), max_broken_share)
    return loaded
