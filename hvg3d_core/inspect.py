# SPDX-License-Identifier: Apache-2.0
"""What is in a clip, as text and as one picture."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .conditions import (
    SCHEMA_VERSION,
    Clip,
    check_frame_count,
    in_view,
    invert_rigid,
    project,
    resample_indices,
    tracking_video,
    valid_frame_count,
)
from .conditions.clip import ClipError

# Okabe and Ito's palette, made to be told apart with any colour vision; the first is for hands as a rule.
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))
_PAPER, _INK, _FAINT = (22, 24, 29), (232, 234, 238), (138, 144, 156)
_GAP, _LABEL, _CELL = 6, 104, 288
_FINE = 2  # points and tracks are drawn this much larger and reduced, which smooths them
_TRAIL = 12  # frames


def describe(clip: Clip, path: str | os.PathLike[str]) -> str:
    """Several lines for a terminal: what the clip holds, how far things move, where it comes from."""
    first, last = clip.frame_range
    advice = ""
    if not valid_frame_count(clip.num_frames):
        try:
            check_frame_count(clip.num_frames)
        except ClipError as error:
            advice = f" ({error})"
    lines = [
        os.fspath(path),
        f"  schema      {SCHEMA_VERSION}{_file_size(path)}",
        f"  frames      {clip.num_frames} at {clip.fps:g} fps ({clip.num_frames / clip.fps:.2f} s),"
        f" source frames {first} to {last}{advice}",
        f"  size        {clip.width} x {clip.height}",
        f"  prompt      {clip.prompt or '(none)'}",
        f"  points      {clip.num_points}, {'tracked' if clip.tracked else 'untracked'}",
        f"  tracks      {clip.tracks.shape[1]}, visible {clip.track_visible.mean():.0%}"
        if clip.tracks.size
        else "  tracks      none",
        "  entities",
    ]
    owner = np.broadcast_to(clip.point_entity, clip.points.shape[:2])
    names = max(len(entity.name) for entity in clip.entities)
    for index, entity in enumerate(clip.entities):
        own = owner == index
        seen = ", ".join(f"{share:.0%}" for share in (_share(view.point_visible, own) for view in clip.views))
        text = f"    {entity.name:<{names}}  {entity.role:<10}  {int(own.sum(1).max())} points, visible {seen}"
        if clip.tracked and own.any():
            text += f", {_motion(clip.points[:, own[0]])}"
        lines.append(text)
    for view in clip.views:
        focal = float(view.K[0, 0, 0])
        fov = 2 * np.degrees(np.arctan(0.5 * clip.width / focal))
        position = invert_rigid(view.world_to_camera)[:, :3, 3]
        travel = float(np.linalg.norm(np.diff(position, axis=0), axis=1).sum())
        depth = project(clip.points, view.K, view.world_to_camera)[1][view.point_visible]
        lines.append(
            f"  camera      {view.name}: {fov:.1f} degrees wide,"
            f" {'still' if travel < 1e-4 else f'moves {travel:.3f} m'}, "
            + (f"sees points {depth.min():.3f} to {depth.max():.3f} m away" if depth.size else "sees no point")
            + f", reference {len(view.reference) / 1024:.0f} KiB"
        )
    extras = [
        f"{name} {'x'.join(str(side) for side in value.shape)}"
        for name in ("joints", "object_poses", "contacts", "normals")
        if (value := getattr(clip, name)) is not None
    ]
    lines.append(f"  also        {', '.join(extras) or 'nothing'}")
    if clip.provenance:
        lines.append("  provenance")
        lines += [f"    {key}: {_short(value)}" for key, value in clip.provenance.items()]
    return "\n".join(lines)


def _file_size(path: str | os.PathLike[str]) -> str:
    return f", {os.path.getsize(path) / 2**20:.2f} MiB" if os.path.isfile(path) else ""


def _share(visible: np.ndarray, own: np.ndarray) -> float:
    return float(visible[own].mean()) if own.any() else 0.0


def _motion(points: np.ndarray) -> str:
    """How far an entity's centre goes and how long its fastest point's way is, from its points (T x n x 3)."""
    centre = points.mean(1)
    away = float(np.linalg.norm(centre - centre[0], axis=1).max())
    longest = float(np.linalg.norm(np.diff(points, axis=0), axis=2).sum(0).max()) if len(points) > 1 else 0.0
    size = np.ptp(points[0], axis=0)
    extent = " x ".join(f"{side:.3f}" for side in size)
    return f"{extent} m, centre goes {away:.3f} m away, longest path {longest:.3f} m"


def _short(value: object, limit: int = 160) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def contact_sheet(clip: Clip, frames: int = 6, videos: Mapping[str, np.ndarray] | None = None) -> Image.Image:
    """One RGB picture: columns are frames; rows are the reference, masks, visible points, tracks, tracking video.

    ``videos`` (T' x H' x W' x 3 uint8 by label, any length and size) get a row each, at the same moments of the shot.
    """
    if frames < 1:
        raise ClipError(f"frames: {frames}; at least 1 column is needed")
    time = resample_indices(clip.num_frames, min(frames, clip.num_frames))
    view = clip.views[0]
    size = (_CELL, max(1, round(clip.height * _CELL / clip.width)))

    reference = np.asarray(Image.open(io.BytesIO(view.reference)).convert("RGB").resize(size, Image.Resampling.LANCZOS))
    backdrop = (reference * 0.28).astype(np.uint8)
    video = tracking_video(clip.tracks, clip.track_visible, view.K, view.world_to_camera, clip.width, clip.height)[time]
    rows = [
        ("reference", [_reference_cell(reference, clip, column) for column in range(len(time))]),
        ("masks", [_mask_cell(backdrop, view.masks[t], size) for t in time]),
        ("points", [_point_cell(backdrop, clip, int(t)) for t in time]),
        ("tracks", [_track_cell(backdrop, clip, int(t)) for t in time]),
        ("tracking\nvideo", [Image.fromarray(_pixels(v, size)) for v in video]),
    ]
    for label, frames_of in (videos or {}).items():
        moments = (time * (len(frames_of) - 1) / max(1, clip.num_frames - 1)).round().astype(int)
        cells = [Image.fromarray(v).resize(size, Image.Resampling.BICUBIC) for v in frames_of[moments]]
        rows.append((label, cells))
    return _assemble(clip, rows, time, size)


def _color(entity: int) -> tuple[int, int, int]:
    return PALETTE[entity % len(PALETTE)]


def _reference_cell(reference: np.ndarray, clip: Clip, column: int) -> Image.Image:
    """The reference under the first frame; the columns without one tell what the colours mean, and the numbers."""
    if column == 0:
        return Image.fromarray(reference)
    cell = Image.new("RGB", (reference.shape[1], reference.shape[0]), _PAPER)
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(13)
    room = max(1, (reference.shape[0] - 8) // 22)
    if column == 1:
        for index, entity in enumerate(clip.entities[:room]):
            y = 6 + 22 * index
            draw.rounded_rectangle((8, y, 22, y + 14), 3, fill=_color(index))
            text = f"{entity.name}  ({entity.role.replace('_', ' ')})"
            draw.text((30, y - 1), _fitting(text, font, cell.width - 34), _INK, font)
    elif column == 2:
        facts = (
            f"{clip.num_frames} frames at {clip.fps:g} fps",
            f"{clip.width} x {clip.height} pixels",
            f"{clip.num_points} points, {clip.views[0].point_visible.mean():.0%} visible",
            f"{clip.tracks.shape[1]} tracks",
        )
        for index, fact in enumerate(facts[:room]):
            draw.text((8, 5 + 22 * index), fact, _FAINT, font)
    return cell


def _pixels(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image resized so that its pixels stay what they are: repeated, then averaged down to ``size``."""
    repeat = max(1, -(-size[0] // image.shape[1]))
    large = image.repeat(repeat, 0).repeat(repeat, 1)
    return np.asarray(Image.fromarray(large).resize(size, Image.Resampling.BOX))


def _mask_cell(backdrop: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> Image.Image:
    colors = np.array([(0, 0, 0)] + [_color(e) for e in range(255)], np.uint8)
    cover = _pixels((mask > 0).astype(np.uint8) * 255, size)[..., None] / 255.0
    return Image.fromarray((_pixels(colors[mask], size) + backdrop * (1.0 - cover)).clip(0, 255).astype(np.uint8))


def _canvas(backdrop: np.ndarray, clip: Clip) -> tuple[Image.Image, float]:
    """An enlarged cell to draw on, and its pixels for one of the clip's."""
    height, width = backdrop.shape[:2]
    large = Image.fromarray(backdrop).resize((width * _FINE, height * _FINE), Image.Resampling.BICUBIC)
    return large, width * _FINE / clip.width


def _dot(draw: ImageDraw.ImageDraw, at: np.ndarray, radius: float, color: np.ndarray) -> None:
    (x, y), radius = at, radius * _FINE
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(int(c) for c in color))


def _point_cell(backdrop: np.ndarray, clip: Clip, frame: int) -> Image.Image:
    """Visible points bright, hidden ones dim and under them, nearer ones over farther ones."""
    view = clip.views[0]
    cell, drawing = _canvas(backdrop, clip)
    draw = ImageDraw.Draw(cell)
    uv, z = project(clip.points[frame], view.K[frame], view.world_to_camera[frame])
    owner = clip.point_entity if clip.tracked else clip.point_entity[frame]
    visible = view.point_visible[frame]
    inside = np.flatnonzero(in_view(uv, z, clip.width, clip.height))
    for index in inside[np.lexsort((-z[inside], visible[inside]))]:
        color = np.array(_color(int(owner[index])))
        if visible[index]:
            _dot(draw, uv[index] * drawing, 1.2, color)
        else:
            _dot(draw, uv[index] * drawing, 0.5, color * 0.45)
    return cell.resize((_CELL, backdrop.shape[0]), Image.Resampling.LANCZOS)


def _track_cell(backdrop: np.ndarray, clip: Clip, frame: int) -> Image.Image:
    """Visible tracks and where they were in the frames before, older is darker. The camera's own motion is left out:
    every position is seen by this frame's camera."""
    view = clip.views[0]
    cell, drawing = _canvas(backdrop, clip)
    draw = ImageDraw.Draw(cell)
    past = np.arange(max(0, frame - _TRAIL), frame + 1)
    uv, z = project(clip.tracks[past], view.K[frame], view.world_to_camera[frame])
    inside = in_view(uv, z, clip.width, clip.height)
    shown = np.flatnonzero(clip.track_visible[frame] & inside[-1])
    shown = shown[:: max(1, len(shown) // 140)]
    owner = _track_owner(clip)
    for step in range(len(past) - 1):
        fade = 0.2 + 0.8 * ((step + 1) / len(past)) ** 2
        for index in shown[inside[step, shown] & inside[step + 1, shown]]:
            color = tuple(int(c * fade) for c in _color(int(owner[index])))
            draw.line([tuple(end) for end in (uv[step : step + 2, index] * drawing).tolist()], fill=color, width=_FINE)
    for index in shown:
        _dot(draw, uv[-1, index] * drawing, 1.4, 0.45 * np.array(_color(int(owner[index]))) + 0.55 * np.array(_INK))
    return cell.resize((_CELL, backdrop.shape[0]), Image.Resampling.LANCZOS)


def _track_owner(clip: Clip) -> np.ndarray:
    """M entity indices: the track's own point's, or that of the point nearest to it in the first frame."""
    if clip.tracked and clip.track_points is not None:
        return clip.point_entity[clip.track_points]
    first = clip.point_entity if clip.tracked else clip.point_entity[0]
    nearest = [int(np.argmin(((clip.points[0] - track) ** 2).sum(1))) for track in clip.tracks[0]]
    return first[np.array(nearest, np.int64)]


def _assemble(
    clip: Clip, rows: Sequence[tuple[str, Sequence[Image.Image]]], time: np.ndarray, size: tuple[int, int]
) -> Image.Image:
    head = 46
    width = _LABEL + len(time) * (size[0] + _GAP) + _GAP
    height = head + len(rows) * (size[1] + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    title, small = ImageFont.load_default(15), ImageFont.load_default(12)
    names = ", ".join(entity.name for entity in clip.entities)
    draw.text((_LABEL, 6), _fitting(clip.prompt or names, title, width - _LABEL - 2 * _GAP), _INK, title)
    for column, t in enumerate(time):
        x = _LABEL + column * (size[0] + _GAP)
        draw.text((x, 28), f"frame {int(t)}  ({int(t) / clip.fps:.2f} s)", _FAINT, small)
    for row, (label, cells) in enumerate(rows):
        y = head + row * (size[1] + _GAP)
        draw.multiline_text((12, y + size[1] / 2), label, _INK, ImageFont.load_default(14), anchor="lm")
        for column, cell in enumerate(cells):
            sheet.paste(cell, (_LABEL + column * (size[0] + _GAP), y))
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """``text`` in one line, cut where it would be wider than ``width`` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
