# SPDX-License-Identifier: GPL-3.0-or-later
"""Random colours, patterns and light for a scene; hand, object and table keep apart from each other in colour."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np

from .build import Look
from .materials import Color, Surface

# Linear RGB of lit skin, from light to dark.
SKINS = (
    (0.78, 0.52, 0.40),
    (0.70, 0.42, 0.30),
    (0.62, 0.32, 0.21),
    (0.52, 0.26, 0.15),
    (0.36, 0.17, 0.09),
    (0.22, 0.10, 0.055),
    (0.12, 0.055, 0.032),
)
# name -> (hue, saturation, value) of sRGB; names are the words of the prompt.
OBJECT_COLORS = {
    "red": (0.99, 0.85, 0.80),
    "orange": (0.07, 0.85, 0.92),
    "yellow": (0.13, 0.80, 0.93),
    "green": (0.36, 0.70, 0.58),
    "teal": (0.49, 0.75, 0.60),
    "blue": (0.60, 0.78, 0.75),
    "purple": (0.76, 0.60, 0.62),
    "pink": (0.93, 0.50, 0.90),
    "white": (0.10, 0.04, 0.93),
    "black": (0.60, 0.10, 0.14),
    "brown": (0.05, 0.60, 0.42),
    "grey": (0.60, 0.06, 0.52),
}
OBJECT_PATTERNS = ("plain", "rings", "stripes", "checker", "dots", "marble", "speckle")
_OBJECT_PATTERN_WEIGHTS = (0.16, 0.22, 0.16, 0.12, 0.12, 0.14, 0.08)
TABLES = ("wooden", "white", "dark", "tiled", "cloth", "stone")


def linear(hue: float, saturation: float, value: float) -> Color:
    """HSV of sRGB -> linear RGB."""
    rgb = np.array(colorsys.hsv_to_rgb(hue % 1.0, float(np.clip(saturation, 0, 1)), float(np.clip(value, 0, 1))))
    low = rgb / 12.92
    high = ((rgb + 0.055) / 1.055) ** 2.4
    r, g, b = np.where(rgb <= 0.04045, low, high)
    return float(r), float(g), float(b)


def _scaled(color: Color, factor: float) -> Color:
    return tuple(float(np.clip(c * factor, 0, 1)) for c in color)  # type: ignore[return-value]


def random_look(rng: np.random.Generator, camera_azimuth: float) -> tuple[Look, str, str]:
    """Returns the look, the object's colour word and the table's word."""
    skin = _scaled(SKINS[rng.integers(len(SKINS))], rng.uniform(0.88, 1.1))
    word = str(rng.choice(list(OBJECT_COLORS)))
    # Things of the colour of the skin that holds them teach nothing about where the hand ends.
    while _distance(linear(*OBJECT_COLORS[word]), skin) < 0.20:
        word = str(rng.choice(list(OBJECT_COLORS)))
    hue, saturation, value = OBJECT_COLORS[word]
    color = linear(hue + rng.normal(0, 0.012), saturation * rng.uniform(0.85, 1.1), value * rng.uniform(0.9, 1.07))
    if rng.random() < 0.5:
        second: Color = (
            linear(0.1, 0.06, 0.9) if word not in ("white", "grey", "yellow") else linear(rng.random(), 0.7, 0.5)
        )
    else:
        second = linear(rng.random(), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.9))
    pattern = str(rng.choice(OBJECT_PATTERNS, p=_OBJECT_PATTERN_WEIGHTS))
    thing = Surface(
        color,
        second,
        pattern,
        float(rng.uniform(40, 90)),
        float(rng.uniform(0.02, 0.12)),
        float(rng.uniform(0.15, 0.5)),
    )

    table_word = str(rng.choice(TABLES, p=(0.42, 0.14, 0.12, 0.1, 0.12, 0.1)))
    table = _table(table_word, rng)
    for _ in range(8):
        # A mug that melts into its table, or a hand, would hardly be seen at this size.
        if min(_distance(table.color, color), _distance(table.color, skin)) > 0.12:
            break
        table = _table(table_word, rng)
    wall_pattern = str(rng.choice(("plain", "speckle", "tiles", "stripes", "planks"), p=(0.35, 0.25, 0.15, 0.1, 0.15)))
    wall_color = linear(rng.random(), rng.uniform(0.02, 0.35), rng.uniform(0.35, 0.85))
    wall = Surface(
        wall_color, _scaled(wall_color, rng.uniform(0.72, 1.15)), wall_pattern, float(rng.uniform(6, 20)), 0.0
    )
    sleeve_color = linear(rng.random(), rng.uniform(0.1, 0.75), rng.uniform(0.12, 0.8))
    look = Look(
        skin=Surface(
            skin, _scaled(skin, 1.14), "speckle", float(rng.uniform(60, 110)), 0.05, 0.45, texture_space="Generated"
        ),
        sleeve=Surface(
            sleeve_color, _scaled(sleeve_color, 0.7), str(rng.choice(("plain", "speckle", "rings"))), 60.0, 0.0
        ),
        thing=thing,
        table=table,
        wall=wall,
        wall_distance=float(rng.uniform(0.35, 0.8)),
        sun_azimuth=float(camera_azimuth + rng.choice((-1, 1)) * np.radians(rng.uniform(12, 95))),
        sun_elevation=float(np.radians(rng.uniform(34, 68))),
        sun_size=float(np.radians(rng.uniform(2, 6))),
        sun_strength=float(rng.uniform(2.2, 3.5)),
        sun_color=tuple(float(c) for c in (1.0, rng.uniform(0.9, 1.0), rng.uniform(0.78, 1.0))),
    )
    return look, word, table_word


def _table(word: str, rng: np.random.Generator) -> Surface:
    makers: dict[str, Callable[[], Surface]] = {
        "wooden": lambda: _two_tone(
            linear(rng.uniform(0.05, 0.1), rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.8)),
            rng,
            str(rng.choice(("wood", "planks"))),
            rng.uniform(16, 32),
            0.55,
        ),
        "white": lambda: _two_tone(
            linear(rng.random(), 0.04, rng.uniform(0.78, 0.9)), rng, "speckle", rng.uniform(15, 60), 0.9
        ),
        "dark": lambda: _two_tone(
            linear(rng.random(), 0.2, rng.uniform(0.14, 0.3)), rng, "speckle", rng.uniform(15, 60), 1.5
        ),
        "tiled": lambda: _two_tone(
            linear(rng.random(), rng.uniform(0.05, 0.4), rng.uniform(0.45, 0.8)), rng, "tiles", rng.uniform(35, 70), 0.6
        ),
        "cloth": lambda: Surface(
            linear(rng.random(), rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.8)),
            linear(rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0.7, 0.9)),
            str(rng.choice(("checker", "weave", "dots"))),
            float(rng.uniform(18, 40)),
            0.0,
        ),
        "stone": lambda: _two_tone(
            linear(rng.random(), 0.08, rng.uniform(0.35, 0.7)), rng, "marble", rng.uniform(10, 40), 0.65
        ),
    }
    return makers[word]()


def _two_tone(color: Color, rng: np.random.Generator, pattern: str, scale: float, factor: float) -> Surface:
    return Surface(
        color, _scaled(color, factor * rng.uniform(0.9, 1.1)), pattern, float(scale), float(rng.uniform(0.0, 0.05))
    )


def _distance(a: Color, b: Color) -> float:
    """Distance after a square root, which is near enough to how different two linear colours look."""
    return float(np.linalg.norm(np.sqrt(a) - np.sqrt(b)))
