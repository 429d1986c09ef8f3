# SPDX-License-Identifier: Apache-2.0
"""A clip from animated meshes, one frame at a time, so that the caller can stop or report between frames."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cameras import points_in_view
from .clip import Clip, ClipError, Entity, View
from .rasterise import ids_on_screen
from .sampling import SurfaceBinding, balanced_quota, bind_surface
from .screen import VERTICES, ScreenTriangles, corner_rows, screen_triangles
from .validate import check_array, check_camera, check_entities, check_fps, check_size, validate
from .visibility import visible_against

_WAITING = 16  # frames


@dataclass(frozen=True)
class Mesh:
    """One evaluated mesh in one frame."""

    name: str
    entity: int | None  # index into the clip's entities; None: it only hides what is behind it
    vertices: np.ndarray  # V x 3 float32, world metres; with a matrix, in the mesh's own space
    triangles: np.ndarray  # F x 3 int32
    matrix: np.ndarray | None = None  # 4 x 4 from the mesh's own space to world metres; None: it is in world space

    def world_vertices(self, out: np.ndarray | None = None) -> np.ndarray:
        """V x 3 float32 in world metres, written to ``out`` if that is given."""
        if self.matrix is None:
            if out is None:
                return self.vertices
            out[:] = self.vertices
            return out
        matrix = self.matrix.astype(np.float32)
        world = np.empty((len(self.vertices), 3), np.float32) if out is None else out
        for start in range(0, len(world), VERTICES):
            np.matmul(self.vertices[start : start + VERTICES], matrix[:3, :3].T, out=world[start : start + VERTICES])
        world += matrix[:3, 3]
        return world


class ClipBuilder:
    """Collects frames with :meth:`add_frame` and makes the clip in :meth:`finish`.

    Points are bound to the meshes of the first frame and follow them; that frame's triangles are used throughout,
    because a program may cut the same quad along its other diagonal once it deforms.
    ``points_per_entity`` is each entity's own budget. Tracks are ``num_tracks`` of the points, shared evenly.
    ``timings`` adds up the seconds spent in "points", "visibility" and "masks".
    """

    def __init__(
        self,
        entities: Sequence[Entity],
        *,
        width: int,
        height: int,
        fps: float,
        num_frames: int,
        points_per_entity: int = 1024,
        num_tracks: int = 1024,
        seed: int = 0,
        prompt: str = "",
        compute_visibility: bool = True,
        compute_masks: bool = True,
    ) -> None:
        self.entities = tuple(entities)
        check_entities(self.entities)
        check_size(width, height)
        check_fps(fps)
        for name, value in (("num_frames", num_frames), ("points_per_entity", points_per_entity)):
            if value < 1:
                raise ClipError(f"{name}: {value}; at least 1 is needed")
        total = points_per_entity * len(self.entities)
        if not 0 <= num_tracks <= total:
            raise ClipError(
                f"num_tracks: {num_tracks}, but tracks are taken from {total} points"
                f" ({points_per_entity} for each of {len(self.entities)} entities); lower it or raise points_per_entity"
            )
        self.width, self.height, self.fps = int(width), int(height), float(fps)
        self.num_frames, self.points_per_entity, self.num_tracks = num_frames, points_per_entity, num_tracks
        self.seed, self.prompt = seed, prompt
        self.compute_visibility, self.compute_masks = compute_visibility, compute_masks
        self.timings = {"points": 0.0, "visibility": 0.0, "masks": 0.0}
        self._frames: list[int] = []
        self._topology: list[tuple[str, int | None, int, int]] = []
        self._parts: list[tuple[int, slice, SurfaceBinding]] = []  # mesh, its points among all, how they hang on it
        self._corners = np.zeros((3, 0), np.intp)  # of the triangles of all meshes, indices into all vertices
        self._ids = np.zeros(0, np.uint8)  # entity + 1 of each of them
        self._vertices = np.zeros((0, 3), np.float32)  # of all meshes, world, in the frame that is added
        self._points = np.zeros((num_frames, total, 3), np.float32)
        # Corners of the points' triangles in the frames from ``_placed`` on, whose points are still to be made of them.
        self._waiting = np.empty((1 if compute_visibility else min(num_frames, _WAITING), 3 * total, 3), np.float32)
        self._placed = 0
        self._matrices: list[list[np.ndarray | None]] = []  # of the meshes of ``_parts``, per frame
        self._visible = np.zeros((num_frames, total), bool)
        self._masks = np.zeros((num_frames, height, width), np.uint8)
        self._seen = np.zeros(len(self.entities), bool)
        self._K: list[np.ndarray] = []
        self._w2c: list[np.ndarray] = []
        self._joints: list[np.ndarray | None] = []
        self._poses: list[np.ndarray | None] = []

    def add_frame(
        self,
        frame: int,
        meshes: Sequence[Mesh],
        K: np.ndarray,
        world_to_camera: np.ndarray,
        *,
        joints: np.ndarray | None = None,
        object_poses: np.ndarray | None = None,
    ) -> None:
        """Add the next frame. ``frame`` is its number in the source, for messages and the clip's frame range.

        ``meshes`` are the same ones in the same order in every frame; K (3, 3) and world_to_camera (4, 4) are the
        camera's; ``joints`` J x 3 and ``object_poses`` K x 4 x 4 are kept where they are given in every frame.
        """
        if len(self._frames) == self.num_frames:
            raise ClipError(f"frame {frame}: the clip has its {self.num_frames} frames already; raise num_frames")
        self._check_meshes(frame, meshes)
        K, world_to_camera = self._check_camera(frame, K, world_to_camera)
        joints = _extra("joints", frame, joints, (None, 3))
        object_poses = _extra("object_poses", frame, object_poses, (None, 4, 4))
        index = len(self._frames)
        with self._timed("points"):
            if index == 0:
                self._bind(meshes)
            corners = self._waiting[index - self._placed]
            for part, chosen, binding in self._parts:
                binding.gather(meshes[part].vertices, out=corners[3 * chosen.start : 3 * chosen.stop])
        self._matrices.append([meshes[part].matrix for part, _, _ in self._parts])
        self._K.append(K)
        self._w2c.append(world_to_camera)
        self._joints.append(joints)
        self._poses.append(object_poses)
        self._frames.append(int(frame))
        if self._placed + len(self._waiting) == len(self._frames):
            self._place_points()
        if not (self.compute_visibility or self.compute_masks):
            return
        with self._timed("visibility" if self.compute_visibility else "masks"):
            screen = self._screen(meshes, K, world_to_camera)
            if self.compute_visibility:
                self._visible[index] = visible_against(screen, self._points[index], K, world_to_camera)
        with self._timed("masks"):
            if self.compute_masks:
                self._masks[index] = ids_on_screen(screen, self._ids)

    def _place_points(self) -> None:
        """Points of the frames that wait for it, and which of them are in the image.

        Where nothing needs them at once, many frames are placed in one go: between two frames the source works through
        all its vertices, after which every array and much of the code would have to be fetched from memory again.
        """
        with self._timed("points"):
            for corners, index in zip(self._waiting, range(self._placed, len(self._frames)), strict=False):
                points = self._points[index]
                for (_, chosen, binding), matrix in zip(self._parts, self._matrices[index], strict=True):
                    points[chosen] = binding.blend(corners[3 * chosen.start : 3 * chosen.stop], matrix)
                inside = points_in_view(points, self._K[index], self._w2c[index], self.width, self.height)
                self._visible[index] = inside
                self._seen |= inside.reshape(len(self.entities), -1).any(1)
            self._placed = len(self._frames)

    def finish(
        self, reference_png: bytes, *, view_name: str = "camera", provenance: dict[str, Any] | None = None
    ) -> Clip:
        """The validated clip; ``reference_png`` shows the first frame at the clip's size."""
        if len(self._frames) != self.num_frames:
            raise ClipError(f"num_frames: {len(self._frames)} of {self.num_frames} frames were added; add the others")
        self._place_points()
        for index, entity in enumerate(self.entities):
            if not self._seen[index]:
                raise ClipError(
                    f"entity {entity.name!r} is outside the view of camera {view_name!r} in every frame"
                    f" {min(self._frames)} to {max(self._frames)}; aim the camera at it, or leave the entity out"
                )
        points, visible = self._points, self._visible
        chosen = self._choose_tracks()
        clip = Clip(
            points=points,
            point_entity=np.repeat(np.arange(len(self.entities), dtype=np.uint8), self.points_per_entity),
            tracks=points[:, chosen],
            track_visible=visible[:, chosen],
            views=[View(view_name, np.stack(self._K), np.stack(self._w2c), visible, self._masks, reference_png)],
            entities=self.entities,
            fps=self.fps,
            frame_range=(min(self._frames), max(self._frames)),
            width=self.width,
            height=self.height,
            prompt=self.prompt,
            provenance=dict(provenance or {}),
            joints=_stack_extra("joints", self._joints, self._frames),
            object_poses=_stack_extra("object_poses", self._poses, self._frames),
            track_points=chosen.astype(np.int32),
        )
        validate(clip)
        return clip

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[what] += time.perf_counter() - start

    def _check_meshes(self, frame: int, meshes: Sequence[Mesh]) -> None:
        for mesh in meshes:
            at = f"mesh {mesh.name!r} at frame {frame}"
            for name, array in (("vertices", mesh.vertices), ("triangles", mesh.triangles)):
                if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] != 3:
                    raise ClipError(f"{at}: {name} of shape {np.shape(array)}; an array of count x 3 is needed")
            if mesh.triangles.dtype.kind not in "iu":
                raise ClipError(f"{at}: triangles of dtype {mesh.triangles.dtype}; use whole numbers, such as int32")
            if mesh.entity is not None and not 0 <= mesh.entity < len(self.entities):
                raise ClipError(f"{at}: entity {mesh.entity}; use None or 0 to {len(self.entities) - 1}")
            if not np.isfinite(mesh.vertices).all() or not (mesh.matrix is None or np.isfinite(mesh.matrix).all()):
                bad = ~np.isfinite(mesh.world_vertices()).all(1)
                raise ClipError(
                    f"{at}: {int(bad.sum())} of {len(bad)} vertices are not finite, the first is number"
                    f" {int(bad.argmax())}; look for a broken modifier, constraint or simulation cache"
                )
        found = [(m.name, m.entity, len(m.vertices), len(m.triangles)) for m in meshes]
        if not self._frames:
            self._topology = found
            return
        if [t[:2] for t in found] != [t[:2] for t in self._topology]:
            raise ClipError(
                f"meshes at frame {frame}: {[t[0] for t in found]}, but the first frame had"
                f" {[t[0] for t in self._topology]}; the same meshes must be there in every frame"
            )
        for before, now in zip(self._topology, found, strict=True):
            if before != now:
                raise ClipError(
                    f"mesh {now[0]!r} at frame {frame} has {now[2]} vertices and {now[3]} triangles, and had"
                    f" {before[2]} and {before[3]} in the first frame; points follow a surface only while its topology"
                    " is constant, so switch off modifiers that change it over time (remesh, build, animated boolean)"
                )

    def _check_camera(self, frame: int, K: np.ndarray, world_to_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        name = f"camera at frame {frame}"
        K, world_to_camera = np.asarray(K, np.float32), np.asarray(world_to_camera, np.float32)
        if _surely_a_camera(K, world_to_camera):
            return K, world_to_camera
        check_array(f"{name}: K", K, np.float32, (3, 3))
        check_array(f"{name}: world_to_camera", world_to_camera, np.float32, (4, 4))
        check_camera(name, K[None], world_to_camera[None])
        return K, world_to_camera

    def _bind(self, meshes: Sequence[Mesh]) -> None:
        for mesh in meshes:
            if len(mesh.triangles) and not 0 <= mesh.triangles.min() <= mesh.triangles.max() < len(mesh.vertices):
                raise ClipError(
                    f"mesh {mesh.name!r}: its triangles use vertices {mesh.triangles.min()} to {mesh.triangles.max()}"
                    f" but there are {len(mesh.vertices)}; use 0 to {len(mesh.vertices) - 1}"
                )
        rng = np.random.default_rng(self.seed)
        parts = []
        for index, entity in enumerate(self.entities):
            own = [number for number, mesh in enumerate(meshes) if mesh.entity == index]
            if not own:
                raise ClipError(f"entity {entity.name!r}: it has no mesh; give it one, or leave the entity out")
            starts = np.cumsum([0] + [len(meshes[number].vertices) for number in own]).tolist()
            if len(own) == 1:
                triangles, vertices = meshes[own[0]].triangles, meshes[own[0]].world_vertices()
            else:
                triangles = np.concatenate([meshes[n].triangles + start for n, start in zip(own, starts, strict=False)])
                vertices = np.concatenate([meshes[number].world_vertices() for number in own])
            try:
                whole = bind_surface(vertices, triangles, self.points_per_entity, rng)
            except ClipError as error:
                names = ", ".join(meshes[number].name for number in own)
                raise ClipError(f"entity {entity.name!r} ({names}): {error}") from None
            first = index * self.points_per_entity
            for number, start in zip(own, starts, strict=False):
                chosen, binding = whole.within(start, len(meshes[number].vertices))
                if chosen.stop > chosen.start:
                    parts.append((number, slice(first + chosen.start, first + chosen.stop), binding))
        self._parts = parts
        if self.compute_visibility or self.compute_masks:
            offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
            corners = [corner_rows(mesh.triangles) + start for mesh, start in zip(meshes, offsets, strict=False)]
            self._corners = np.concatenate(corners, axis=1)
            owners = [0 if mesh.entity is None else mesh.entity + 1 for mesh in meshes]
            self._ids = np.repeat(owners, [len(m.triangles) for m in meshes]).astype(np.uint8)
            self._vertices = np.empty((int(offsets[-1]), 3), np.float32)

    def _screen(self, meshes: Sequence[Mesh], K: np.ndarray, world_to_camera: np.ndarray) -> ScreenTriangles:
        start = 0
        for mesh in meshes:
            stop = start + len(mesh.vertices)
            mesh.world_vertices(out=self._vertices[start:stop])
            start = stop
        return screen_triangles(self._vertices, self._corners, K, world_to_camera, self.width, self.height)

    def _choose_tracks(self) -> np.ndarray:
        """Sorted indices of the points that are tracks: as many from each entity, spread over its surface."""
        rng = np.random.default_rng([self.seed, 1])
        quotas = balanced_quota([self.points_per_entity] * len(self.entities), self.num_tracks)
        chosen = [
            index * self.points_per_entity + np.sort(rng.choice(self.points_per_entity, quota, replace=False))
            for index, quota in enumerate(quotas)
        ]
        return np.concatenate(chosen).astype(np.int64)


def _surely_a_camera(K: np.ndarray, world_to_camera: np.ndarray) -> bool:
    """True where :func:`check_camera` would find nothing, at a twentieth of its cost; False means: look closely."""
    if K.shape != (3, 3) or world_to_camera.shape != (4, 4):
        return False
    (fx, skew, cx), (zero, fy, cy), last = K.tolist()
    *rows, bottom = world_to_camera.tolist()
    if not (fx > 0 and fy > 0 and zero == 0 and last == [0, 0, 1] and bottom == [0, 0, 0, 1]):
        return False
    (a, b, c, x), (d, e, f, y), (g, h, i, z) = rows
    squares = (a * a + b * b + c * c, d * d + e * e + f * f, g * g + h * h + i * i)
    products = (a * d + b * e + c * f, a * g + b * h + c * i, d * g + e * h + f * i)
    return (
        math.isfinite(fx + fy + skew + cx + cy + x + y + z)
        and all(abs(square - 1) < 5e-4 for square in squares)
        and all(abs(product) < 5e-4 for product in products)
        and a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) > 0
    )


def _extra(name: str, frame: int, value: np.ndarray | None, shape: tuple[int | None, ...]) -> np.ndarray | None:
    if value is None:
        return None
    return check_array(f"{name} at frame {frame}", np.asarray(value, np.float32), np.float32, shape)


def _stack_extra(name: str, values: list[np.ndarray | None], frames: list[int]) -> np.ndarray | None:
    if all(value is None for value in values):
        return None
    first = next(value for value in values if value is not None)
    arrays = []
    for frame, value in zip(frames, values, strict=True):
        if value is None or value.shape != first.shape:
            shape = "missing" if value is None else f"of shape {value.shape}"
            raise ClipError(f"{name}: {shape} at frame {frame}, elsewhere {first.shape}; give all frames or none")
        arrays.append(value)
    return np.stack(arrays)
