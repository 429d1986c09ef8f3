# SPDX-License-Identifier: GPL-3.0-or-later
"""What a batch is to make: read from TOML, checked, and multiplied out to single shots."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

CLIP_SUFFIX = ".clip.safetensors"
QUALITY_STEPS = {"draft": 12, "standard": None, "fine": 75}  # as the panel's qualities
MAX_SEED = 2**31 - 1  # what Blender's own seed field holds
LENGTHS = ("resample", "windows")
ALL = ("*",)
_INSTEAD = (("seeds", "seed_count"), ("quality", "steps"))  # either stands in place of the other


class PlanError(ValueError):
    """A plan that cannot be used; the message names field, value and remedy."""


@dataclass(frozen=True)
class Selection:
    """One ``[[shots]]`` table. None leaves the choice to the scene; names may have ``*`` and ``?`` in them.

    ``files``: patterns, relative to the plan's folder; None is the open file, or every file of the folder. ``scenes``:
    None is every scene in which something is marked. ``cameras``, ``actions``: None is what the scene itself uses.
    ``request``: fields of the generation request in place of the scene's own.
    """

    files: tuple[str, ...] | None = None
    scenes: tuple[str, ...] | None = None
    cameras: tuple[str, ...] | None = None
    actions: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    seed_count: int | None = None
    request: tuple[tuple[str, Any], ...] = ()

    def seeds_from(self, own: int) -> tuple[int, ...]:
        """The seeds of a scene whose own is ``own``."""
        if self.seeds is not None:
            return self.seeds
        return tuple((own + n) % (MAX_SEED + 1) for n in range(self.seed_count or 1))


@dataclass(frozen=True)
class Plan:
    """``out``: folder for everything that the batch makes, None for the usual one. ``in_flight``: jobs at a time."""

    selections: tuple[Selection, ...] = (Selection(),)
    out: str | None = None
    in_flight: int = 8
    retries: int = 1


@dataclass(frozen=True)
class Unit:
    """What is exported once, whatever the number of seeds: a scene through a camera with an action, or a clip file.

    ``problem`` says why it cannot even be tried.
    """

    file: str
    scene: str = ""
    camera: str = ""
    action: str = ""
    problem: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps([self.file, self.scene, self.camera, self.action]).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        parts = [Path(self.file).name.removesuffix(CLIP_SUFFIX).removesuffix(".blend") or "untitled"]
        return ", ".join([*parts, *(part for part in (self.scene, self.camera, self.action) if part)])

    @property
    def slug(self) -> str:
        """Part of file names: readable, and never the same for two units."""
        return f"{re.sub(r'[^0-9A-Za-z]+', '-', self.label).strip('-')[:80]}-{self.id[:8]}"


@dataclass(frozen=True)
class Shot:
    """One video. ``request`` as in :class:`Selection`."""

    unit: Unit
    seed: int
    request: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps([self.unit.id, self.seed, self.request]).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        own = [f"{name.replace('_', ' ')} {value}" for name, value in self.request if name in ("model", "length")]
        return ", ".join([self.unit.label, f"seed {self.seed}", *own])

    @property
    def slug(self) -> str:
        return f"{self.unit.slug}-seed{self.seed}-{self.id[:8]}"


# reading


def load_plan(path: Path) -> Plan:
    """Raises :class:`PlanError`."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise PlanError(f"plan: there is no file {str(path)!r}; give a TOML file that exists") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"plan: {str(path)!r} cannot be read ({error}); give a TOML file in UTF-8") from None
    return parse_plan(text, path.name)


def parse_plan(text: str, name: str = "plan") -> Plan:
    """Values at the top hold for every ``[[shots]]`` table that does not have its own."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{name}: this is no TOML ({error}); mend that line") from None
    tables = table.pop("shots", [{}])
    if not isinstance(tables, list) or not tables or not all(isinstance(entry, dict) for entry in tables):
        raise PlanError(f"{name}: shots: {tables!r} is not a list of tables; write each as [[shots]]")
    general = {key: table.pop(key) for key in ("out", "in_flight", "retries") if key in table}
    _selection(table, f"{name}: ")
    selections = []
    for number, entry in enumerate(tables, 1):
        replaced = {other for pair in _INSTEAD for other in pair if set(pair) & entry.keys()}
        common = {key: value for key, value in table.items() if key not in replaced}
        selections.append(_selection({**common, **entry}, f"{name}: shots {number}: "))
    plan = Plan(tuple(selections))
    if "out" in general:
        plan = replace(plan, out=_text(general["out"], f"{name}: out"))
    if "in_flight" in general:
        plan = replace(plan, in_flight=_whole(general["in_flight"], f"{name}: in_flight", 1, 1000))
    if "retries" in general:
        plan = replace(plan, retries=_whole(general["retries"], f"{name}: retries", 0, 10))
    return plan


def _selection(table: dict[str, Any], where: str) -> Selection:
    known = {*_REQUEST, "quality", *(f.name for f in fields(Selection) if f.name != "request")}
    for name in table:
        if name not in known:
            near = _near(name, known | {"out", "in_flight", "retries", "shots"})
            raise PlanError(f"{where}{name}: there is no such field; {near}")
    chosen: dict[str, Any] = {}
    for name, own in (("files", ""), ("scenes", ""), ("cameras", "own"), ("actions", "own")):
        if name in table:
            chosen[name] = _names(table[name], where + name, own)
    if "seeds" in table and "seed_count" in table:
        raise PlanError(f"{where}seeds and seed_count are both given; keep one of them")
    if "seeds" in table:
        chosen["seeds"] = read_seeds(table["seeds"], where + "seeds")
    if "seed_count" in table:
        chosen["seed_count"] = _whole(table["seed_count"], where + "seed_count", 1, 10_000)
    request = {name: check(table[name], where + name) for name, check in _REQUEST.items() if name in table}
    if "quality" in table:
        if "steps" in table:
            raise PlanError(f"{where}quality and steps are both given; keep one of them")
        quality = table["quality"]
        if not isinstance(quality, str) or quality.lower() not in QUALITY_STEPS:
            raise PlanError(f"{where}quality: {quality!r} is none; use one of {', '.join(QUALITY_STEPS)}, or steps")
        request["num_inference_steps"] = QUALITY_STEPS[quality.lower()]
    if "steps" in request:
        request["num_inference_steps"] = request.pop("steps")
    if "guidance" in request:
        request["guidance_scale"] = request.pop("guidance")
    return Selection(**chosen, request=tuple(sorted(request.items())))


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(sorted(known))}"


def read_seeds(value: Any, where: str = "seeds") -> tuple[int, ...]:
    """A list of numbers, or text such as ``"1, 2, 5-8"``; each seed once, in the order given."""
    remedy = f'write [1, 2, 3], or "1, 5-8", with numbers from 0 to {MAX_SEED}'
    if isinstance(value, int) and not isinstance(value, bool):
        raise PlanError(f"{where}: {value} is one number; write [{value}] for that seed, or seed_count = {value}")
    if isinstance(value, str):
        listed: list[int] = []
        for part in value.replace(";", ",").split(","):
            match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if not 0 <= last - first < 10_000:
                raise PlanError(f"{where}: {part.strip() or value!r} is no seed; {remedy}")
            listed += range(first, last + 1)
        value = listed
    if not isinstance(value, list) or not value:
        raise PlanError(f"{where}: {value!r} is no list of seeds; {remedy}")
    for seed in value:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
            raise PlanError(f"{where}: {seed!r} is no seed; {remedy}")
    return tuple(dict.fromkeys(value))


def _names(value: Any, where: str, own: str) -> tuple[str, ...] | None:
    words = f'"all"{f", {own!r}".replace(chr(39), chr(34)) if own else ""}'
    if value == "all":
        return ALL
    if own and value == own:
        return None
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) and name for name in listed):
        raise PlanError(f'{where}: {value!r} is not a list of names; write {words} or ["name", ...]')
    return tuple(dict.fromkeys(listed))


def _whole(value: Any, where: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise PlanError(f"{where}: {value!r} is not a whole number from {low} to {high}; correct it")
    return value


def _real(value: Any, where: str, low: float, high: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise PlanError(f"{where}: {value!r} is not a number from {low:g} to {high:g}; correct it")
    return float(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise PlanError(f"{where}: {value!r} is not text; put it in quotation marks")
    return value


def _switch(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise PlanError(f"{where}: {value!r} is neither true nor false; write one of them")
    return value


def _length(value: Any, where: str) -> str:
    if value not in LENGTHS:
        raise PlanError(f"{where}: {value!r} is none; use one of {', '.join(LENGTHS)}")
    return value


def _frames(value: Any, where: str) -> int:
    if _whole(value, where, 1, 1001) % 8 != 1:
        raise PlanError(f"{where}: {value} frames cannot be made; use {value // 8 * 8 + 1} or {value // 8 * 8 + 9}")
    return value


_REQUEST: dict[str, Callable[[Any, str], Any]] = {
    "model": _text,
    "prompt": _text,
    "negative_prompt": _text,
    "steps": lambda value, where: _whole(value, where, 1, 1000),
    "guidance": lambda value, where: _real(value, where, 0, 50),
    "control_scale": lambda value, where: _real(value, where, 0, 10),
    "use_points": _switch,
    "use_tracking": _switch,
    "length": _length,
    "num_frames": _frames,
}


# writing


def plan_toml(plan: Plan) -> str:
    """The plan as TOML, which :func:`parse_plan` reads as the same plan."""
    lines = ["# A batch for HVG-3D: every [[shots]] is scenes x cameras x actions x seeds."]
    lines += [f"out = {json.dumps(plan.out, ensure_ascii=False)}"] if plan.out is not None else []
    lines += [f"in_flight = {plan.in_flight}", f"retries = {plan.retries}"]
    names = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
    for selection in plan.selections:
        lines += ["", "[[shots]]"]
        for name in ("files", "scenes", "cameras", "actions", "seeds", "seed_count"):
            value = getattr(selection, name)
            if value is not None:
                value = "all" if value == ALL else list(value) if isinstance(value, tuple) else value
                lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
        for name, value in selection.request:
            if name == "num_inference_steps" and value is None:
                lines.append('quality = "standard"')
            else:
                lines.append(f"{names.get(name, name)} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


# multiplying out


def shots_of_scenes(selection: Selection, file: str, index: dict[str, Any]) -> list[Shot]:
    """The shots that a selection makes of a .blend file with the content ``index`` (see ``shots.file_index``).

    What is named but not there becomes a shot with a problem, so that it is accounted for.
    """
    known = {scene["name"]: scene for scene in index["scenes"]}
    if selection.scenes is None:
        names = [name for name, scene in known.items() if scene["marked"]]
        if not names:
            problem = f"marks: nothing is marked in any scene of {_name(file)}; open it and mark hand and object"
            return _seeded(selection, Unit(file, problem=problem), 0)
    else:
        names = _matching(selection.scenes, list(known))
    shots: list[Shot] = []
    for name in names:
        scene = known.get(name)
        if scene is None:
            problem = f"scene: {name!r} is not in {_name(file)}; use one of {', '.join(known)}"
            shots += _seeded(selection, Unit(file, name, problem=problem), 0)
            continue
        cameras = [scene["camera"]] if selection.cameras is None else _matching(selection.cameras, scene["cameras"])
        actions = [""] if selection.actions is None else _matching(selection.actions, scene["actions"])
        for camera in cameras:
            for action in actions:
                shots += _seeded(
                    selection, Unit(file, name, camera, action, _missing(scene, camera, action)), scene["seed"]
                )
    return shots


def shots_of_clip(selection: Selection, file: str) -> list[Shot]:
    """A clip has its camera and motion already: only the seeds multiply."""
    return _seeded(selection, Unit(file), 0)


def shots_of_broken_file(selection: Selection, file: str, problem: str) -> list[Shot]:
    """A file that cannot be opened: as many shots as the selection names, at least one for each seed."""
    shots = []
    for scene in _named(selection.scenes):
        for camera in _named(selection.cameras):
            for action in _named(selection.actions):
                shots += _seeded(selection, Unit(file, scene, camera, action, problem), 0)
    return shots


def _named(names: tuple[str, ...] | None) -> Sequence[str]:
    return [name for name in names or () if not any(sign in name for sign in "*?[")] or [""]


def _seeded(selection: Selection, unit: Unit, own_seed: int) -> list[Shot]:
    return [Shot(unit, seed, selection.request) for seed in selection.seeds_from(own_seed)]


def _missing(scene: dict[str, Any], camera: str, action: str) -> str:
    if camera not in scene["cameras"]:
        there = f"use one of {', '.join(scene['cameras'])}" if scene["cameras"] else "add a camera"
        wanted = f"{camera!r} is not in" if camera else "none is chosen in"
        return f"camera: {wanted} scene {scene['name']!r}; {there}"
    if action and action not in scene["actions"]:
        there = f"use one of {', '.join(scene['actions'])}" if scene["actions"] else "leave it as it is: 'own'"
        return f"action: {action!r} moves nothing that is marked in scene {scene['name']!r}; {there}"
    return ""


def _matching(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """In the order of the patterns; a pattern that matches nothing stands for itself, and will be missed."""
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [pattern] if pattern in names else [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        found.update(dict.fromkeys(hits or [pattern]))
    return list(found)


def _name(file: str) -> str:
    return repr(Path(file).name) if file else "this file"


def unique(shots: Iterable[Shot]) -> list[Shot]:
    """Without those that two selections ask for in the same way."""
    return list({shot.id: shot for shot in shots}.values())
