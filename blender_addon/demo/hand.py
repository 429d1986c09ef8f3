# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo hand: a numpy model (forward kinematics and linear blend skinning).

Hand space H has its origin in the wrist: +Y towards the fingers, +Z out of the back of the hand, +X to the right of a
hand that lies palm down. A right thumb is therefore at -X, a left one at +X. Metres. Every joint frame follows
Blender's bone rule (Y along the bone) and a finger flexes by a *negative* rotation about its local X.
The rig is the WebXR `generic-hand` (MIT, see assets/LICENSE.md); its 25 joints are siblings in the file and are chained
here by name.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

ASSETS = Path(__file__).resolve().parent / "assets"
FINGERS = ("thumb", "index", "middle", "ring", "pinky")
SIDES = ("left", "right")
_GLTF_TYPES = {5126: "<f4", 5123: "<u2", 5121: "u1", 5125: "<u4"}
_GLTF_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def finger_chain(finger: str) -> tuple[str, ...]:
    """Joint names of one finger from the palm outwards, as WebXR calls them (the thumb has no intermediate phalanx)."""
    if finger == "thumb":
        return ("thumb-metacarpal", "thumb-phalanx-proximal", "thumb-phalanx-distal", "thumb-tip")
    parts = ("metacarpal", "phalanx-proximal", "phalanx-intermediate", "phalanx-distal", "tip")
    return tuple(f"{finger}-finger-{part}" for part in parts)


JOINTS: tuple[str, ...] = ("wrist", *(name for finger in FINGERS for name in finger_chain(finger)))
PARENTS: tuple[int, ...] = (
    -1,
    *(JOINTS.index(chain[i - 1]) if i else 0 for chain in map(finger_chain, FINGERS) for i in range(len(chain))),
)


@dataclass(frozen=True)
class HandShape:
    """Proportions relative to the asset; 1 is the asset itself."""

    scale: float = 1.0
    finger_length: float = 1.0
    finger_thickness: float = 1.0


@dataclass
class HandModel:
    """A skinned hand in hand space.

    vertices V×3, triangles F×3, rest J×4×4 (joint frames in H), weights V×J (rows sum to 1), sleeve F bool (triangles
    of the sleeve), forearm V bool (vertices behind the wrist that no finger may count as contact).
    """

    side: str
    vertices: np.ndarray
    triangles: np.ndarray
    rest: np.ndarray
    weights: np.ndarray
    sleeve: np.ndarray
    forearm: np.ndarray
    _derived: dict[str, Any] = field(default_factory=dict, repr=False)

    def joint_frames(self, angles: np.ndarray) -> np.ndarray:
        """angles …×J×3 (XYZ Euler, radians, local) -> joint frames …×J×4×4 in hand space."""
        rotation = euler_matrices(angles)
        frames = np.zeros((*angles.shape[:-1], 4, 4))
        local = self._local()
        for joint, parent in enumerate(PARENTS):
            base = (
                np.broadcast_to(local[joint], (*angles.shape[:-2], 4, 4))
                if parent < 0
                else frames[..., parent, :, :] @ local[joint]
            )
            frames[..., joint, :3, :3] = base[..., :3, :3] @ rotation[..., joint, :, :]
            frames[..., joint, :, 3] = base[..., :, 3]
        return frames

    def pose(self, angles: np.ndarray, wrist: np.ndarray | None = None, subset: np.ndarray | None = None) -> np.ndarray:
        """Linear blend skinning: angles …×J×3, wrist …×4×4 -> vertices …×V×3, or only those of `subset`."""
        skin = self.joint_frames(angles) @ self._inverse_rest()
        if wrist is not None:
            skin = wrist[..., None, :, :] @ skin
        vertices, weights = (
            (self.vertices, self.weights) if subset is None else (self.vertices[subset], self.weights[subset])
        )
        used = np.flatnonzero(weights.any(axis=0))
        out = np.zeros((*skin.shape[:-3], len(vertices), 3))
        for joint in used:
            rows = np.flatnonzero(weights[:, joint])
            moved = vertices[rows] @ np.swapaxes(skin[..., joint, :3, :3], -1, -2) + skin[..., joint, None, :3, 3]
            out[..., rows, :] += weights[rows, joint, None] * moved
        return out

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """Something derived from the model, made at the first call."""
        if key not in self._derived:
            self._derived[key] = make()
        return self._derived[key]

    def _local(self) -> np.ndarray:
        def make() -> np.ndarray:
            inverse = self._inverse_rest()
            return np.stack([self.rest[j] if p < 0 else inverse[p] @ self.rest[j] for j, p in enumerate(PARENTS)])

        return self.once("local", make)

    def _inverse_rest(self) -> np.ndarray:
        return self.once("inverse", lambda: np.linalg.inv(self.rest))


def euler_matrices(angles: np.ndarray) -> np.ndarray:
    """XYZ Euler angles …×3 -> …×3×3 with Blender's meaning: R = Rz · Ry · Rx."""
    (sx, sy, sz), (cx, cy, cz) = (np.moveaxis(f(np.asarray(angles, dtype=np.float64)), -1, 0) for f in (np.sin, np.cos))
    rows = (
        (cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz),
        (cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz),
        (-sy, sx * cy, cx * cy),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def load_hand(side: str, shape: HandShape = HandShape(), forearm: float = 0.24) -> HandModel:
    """The hand of the asset with the wanted proportions and a sleeved forearm of `forearm` metres behind it."""
    if side not in SIDES:
        raise ValueError(f"side is {side!r}; use one of {', '.join(SIDES)}")
    vertices, triangles, rest, weights = _asset(side)
    vertices, rest = _reshape(vertices, rest, weights, shape)
    vertices, triangles, weights, sleeve, is_forearm = _add_forearm(vertices, triangles, weights, forearm * shape.scale)
    return HandModel(side, vertices, triangles, rest, weights, sleeve, is_forearm)


@lru_cache(maxsize=2)
def _asset(side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read the glb: welded vertices, triangles, rest frames and dense weights, in hand space and JOINTS order."""
    raw = (ASSETS / f"hand_{side}.glb").read_bytes()
    (json_length,) = struct.unpack_from("<I", raw, 12)
    header = json.loads(raw[20 : 20 + json_length])
    binary = raw[28 + json_length :]

    def accessor(index: int) -> np.ndarray:
        entry = header["accessors"][index]
        view = header["bufferViews"][entry["bufferView"]]
        width = _GLTF_WIDTHS[entry["type"]]
        start = view.get("byteOffset", 0) + entry.get("byteOffset", 0)
        flat = np.frombuffer(binary, _GLTF_TYPES[entry["componentType"]], entry["count"] * width, start)
        return flat.reshape(-1, width)

    primitive = header["meshes"][0]["primitives"][0]
    attributes = primitive["attributes"]
    positions = accessor(attributes["POSITION"]).astype(np.float64)
    skin = header["skins"][0]
    names = [header["nodes"][node]["name"] for node in skin["joints"]]
    bind = np.linalg.inv(accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1).astype(np.float64))
    order = np.array([names.index(name) for name in JOINTS])
    dense = np.zeros((len(positions), len(names)))
    np.add.at(
        dense,
        (np.arange(len(positions))[:, None], accessor(attributes["JOINTS_0"]).astype(int)),
        accessor(attributes["WEIGHTS_0"]),
    )
    # UV seams split vertices; a closed skin needs one vertex per position.
    _, first, inverse = np.unique(np.round(positions, 6), axis=0, return_index=True, return_inverse=True)
    triangles = inverse.reshape(-1)[accessor(primitive["indices"]).astype(int).reshape(-1, 3)]
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (a != c)]

    # WebXR joint axes are x right, y up, -z forward; bone axes are x right, y forward, z up.
    to_bone = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    frames = bind[order]
    axes = frames[:, :3, :3] / np.linalg.norm(frames[:, :3, :3], axis=1, keepdims=True) @ to_bone
    rest = np.tile(np.eye(4), (len(JOINTS), 1, 1))
    rest[:, :3, :3] = axes[0].T @ axes
    rest[:, :3, 3] = (frames[:, :3, 3] - frames[0, :3, 3]) @ axes[0]
    vertices = (positions[first] - frames[0, :3, 3]) @ axes[0]
    weights = dense[first][:, order]
    # The asset closes the wrist with a cap; open it so that a forearm can go on.
    triangles = triangles[(vertices[triangles][:, :, 1] > -0.015).all(axis=1)]
    used, triangles = np.unique(triangles, return_inverse=True)
    weights = weights[used]
    return vertices[used], triangles.reshape(-1, 3), rest, weights / weights.sum(axis=1, keepdims=True)


def _reshape(
    vertices: np.ndarray, rest: np.ndarray, weights: np.ndarray, shape: HandShape
) -> tuple[np.ndarray, np.ndarray]:
    """Scale the whole hand, and along and across every phalanx: a new rest pose of the same topology."""
    new_rest, skin = rest.copy(), np.zeros_like(rest)
    inverse = np.linalg.inv(rest)
    for joint, parent in enumerate(PARENTS):
        name = JOINTS[joint]
        phalanx = "phalanx" in name or "tip" in name
        if parent >= 0:
            local = inverse[parent] @ rest[joint]
            if "phalanx" in JOINTS[parent]:
                local[:3, 3] *= shape.finger_length
            new_rest[joint] = new_rest[parent] @ local
        stretch = (
            np.diag([shape.finger_thickness, shape.finger_length, shape.finger_thickness, 1.0])
            if phalanx
            else np.eye(4)
        )
        skin[joint] = new_rest[joint] @ stretch @ inverse[joint]
    homogeneous = np.concatenate([vertices, np.ones((len(vertices), 1))], axis=1)
    moved = np.einsum("vj,jab,vb->va", weights, skin, homogeneous)[:, :3]
    new_rest[:, :3, 3] *= shape.scale
    return moved * shape.scale, new_rest


def boundary_loop(triangles: np.ndarray) -> np.ndarray:
    """Vertex indices of the longest open boundary, in walking order of the triangles' own direction."""
    edges = {(int(t[i]), int(t[(i + 1) % 3])) for t in triangles for i in range(3)}
    follow = {a: b for a, b in edges if (b, a) not in edges}
    best: list[int] = []
    seen: set[int] = set()
    for start in follow:
        walk = []
        while start in follow and start not in seen:
            seen.add(start)
            walk.append(start)
            start = follow[start]
        if len(walk) > len(best):
            best = walk
    return np.array(best, dtype=int)


def _add_forearm(
    vertices: np.ndarray, triangles: np.ndarray, weights: np.ndarray, length: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Continue the open wrist into a bare stump and a wider sleeve, rigid with the wrist bone, closed at the elbow."""
    loop = boundary_loop(triangles)
    ring = vertices[loop]
    centre = ring.mean(axis=0)
    angle = np.unwrap(np.arctan2(ring[:, 2] - centre[2], ring[:, 0] - centre[0]))
    scale = np.ptp(ring[:, 0]) / 2
    # (distance behind the wrist's edge, radius relative to it, roundness 0..1); two rings close together make the
    # cuff's edge.
    profile = [
        (0.10, 1.0, 0.2),
        (0.25, 1.02, 0.5),
        (0.26, 1.22, 0.7),
        (0.30, 1.26, 0.8),
        (0.65, 1.30, 1.0),
        (1.0, 1.38, 1.0),
    ]
    rings = [ring]
    for distance, radius, roundness in profile:
        round_ring = np.stack([np.cos(angle) * scale, np.zeros_like(angle), 0.82 * np.sin(angle) * scale], axis=1)
        shape = (1 - roundness) * (ring - centre) * [1, 0, 1] + roundness * round_ring
        rings.append(centre + shape * radius + [0.0, -distance * length, 0.0])
    count, base = len(loop), len(vertices)
    ids = [loop, *(base + np.arange(count) + k * count for k in range(len(profile)))]
    new_vertices = np.concatenate([vertices, *rings[1:], rings[-1].mean(axis=0, keepdims=True)])
    faces, sleeve = [triangles], [np.zeros(len(triangles), bool)]
    for k in range(len(profile)):
        a, b = ids[k], ids[k + 1]
        a2, b2 = np.roll(a, -1), np.roll(b, -1)
        faces += [np.stack([a2, a, b], axis=1), np.stack([a2, b, b2], axis=1)]
        sleeve += [np.full(count, k >= 2)] * 2
    faces.append(np.stack([np.roll(ids[-1], -1), ids[-1], np.full(count, len(new_vertices) - 1)], axis=1))
    sleeve.append(np.ones(count, bool))
    added = len(new_vertices) - base
    new_weights = np.concatenate([weights, np.tile(np.eye(weights.shape[1])[0], (added, 1))])
    forearm = np.concatenate([vertices[:, 1] < -0.005, np.ones(added, bool)])
    return new_vertices, np.concatenate(faces), new_weights, np.concatenate(sleeve), forearm
