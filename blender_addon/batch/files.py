# SPDX-License-Identifier: GPL-3.0-or-later
"""A batch over many files: .blend files, each exported by a Blender of its own, and clips that are exported already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core import ClipError, load_clip
from .blender import Blender
from .job import Batch
from .plan import (
    CLIP_SUFFIX,
    Plan,
    PlanError,
    Selection,
    Shot,
    Unit,
    shots_of_broken_file,
    shots_of_clip,
    shots_of_scenes,
    unique,
)
from .stamp import stamp_of
from .state import STATE_FILE

_SUFFIXES = (".blend", CLIP_SUFFIX)
Files = dict[str, list[Selection]]


def find_files(plan: Plan, base: Path, out: Path) -> Files:
    """The files of a plan, by their paths below ``base``, each with the selections that name it, in their order.

    A pattern that matches nothing is an error; a name without * and ? stays, and fails as a shot. What lies in ``out``
    or was made by another batch is left out. Raises :class:`PlanError`.
    """
    found: Files = {}
    for selection in plan.selections:
        names: list[str] = []
        for pattern in selection.files or ("**/*.blend", f"**/*{CLIP_SUFFIX}"):
            if not any(sign in pattern for sign in "*?["):
                names.append(pattern)
                continue
            hits = [path for path in sorted(base.glob(pattern)) if path.is_file() and not _hidden(path, base, out)]
            if not hits and selection.files is not None:
                raise PlanError(f"files: {pattern!r} matches nothing in {base}; correct it")
            names += [path.relative_to(base).as_posix() for path in hits]
        for name in dict.fromkeys(names):
            found.setdefault(name, []).append(selection)
    if not found:
        raise PlanError(f"files: there is no .blend file and no *{CLIP_SUFFIX} in {base}; give another folder")
    for name in found:
        if not name.endswith(_SUFFIXES):
            raise PlanError(f"files: {name!r} is neither a .blend file nor a *{CLIP_SUFFIX}; leave it out")
    return found


def _hidden(path: Path, base: Path, out: Path) -> bool:
    """Hidden files, and what this or another batch has made."""
    parts = path.relative_to(base).parts
    made = any(base.joinpath(*parts[:depth], STATE_FILE).exists() for depth in range(1, len(parts)))
    return made or out.absolute() in path.absolute().parents or any(part.startswith(".") for part in parts)


class FileBatch:
    """Feeds a :class:`Batch` from files. ``blender``: the command to run, found when it is first needed."""

    def __init__(
        self, batch: Batch, files: Files, base: Path, blender: Callable[[], list[str]], *, trust: bool
    ) -> None:
        self.batch = batch
        self._files = files
        self._base = base
        self._blender = blender
        self._trust = trust
        self._running: Blender | None = None

    def close(self) -> None:
        """End the Blender that is at work, from another thread."""
        running = self._running
        if running is not None:
            running.kill()

    def run(self) -> None:
        """Exports everything that has to be; returns when the last clip is with the courier, or the batch ends."""
        try:
            self._run()
        except OSError as error:
            self.batch.give_up(f"{error}", "Free some space, or see what is wrong with that file, then start it again")
        except Exception as error:
            self.batch.give_up(f"{type(error).__name__}: {error}", "This is a fault of the add-on; please report it")
        else:
            self.batch.no_more()

    def _run(self) -> None:
        for file, selections in self._files.items():
            if not self.batch.running:
                return
            path = self._base / file
            if not path.is_file():
                problem = f"file: there is no {file!r} in {self._base}; put it there, or leave it out"
                self._add_broken(file, selections, problem)
            elif file.endswith(CLIP_SUFFIX):
                self._clip(file, path, selections)
            else:
                self._blend(file, path, selections)

    def _add_broken(self, file: str, selections: list[Selection], problem: str) -> None:
        self.batch.add(shot for selection in selections for shot in shots_of_broken_file(selection, file, problem))

    def _clip(self, file: str, path: Path, selections: list[Selection]) -> None:
        stamp = stamp_of([str(path)])
        for unit in self.batch.add(shot for selection in selections for shot in shots_of_clip(selection, file)):
            if not self.batch.needs_export(unit, stamp):
                continue
            try:
                data = path.read_bytes()
                clip = load_clip(path)
            except (ClipError, OSError) as error:
                self.batch.export_failed(unit, str(error), stamp)
            else:
                self.batch.exported_file(unit, clip, data, {}, stamp)

    def _blend(self, file: str, path: Path, selections: list[Selection]) -> None:
        known = self.batch.state.get("file", file)
        stamp = stamp_of(known["paths"]) if known else ""
        only: list[Unit] | None = None
        if known and stamp == known["stamp"]:
            units = self.batch.add(_shots(selections, file, known["index"]))
            only = [unit for unit in units if self.batch.needs_export(unit, stamp)]
            if not only:
                return
        pending, crashed = self._export(file, path, selections, only)
        while crashed and pending and self.batch.running:
            # Which of them brought Blender down is known; the others get a Blender of their own.
            self.batch.export_failed(pending[0], _crash(crashed), self._stamp(file))
            pending, crashed = self._export(file, path, selections, pending[1:]) if pending[1:] else ([], "")
        if crashed and not pending and only is None and not self.batch.state.get("file", file):
            self._add_broken(file, selections, _crash(crashed))

    def _stamp(self, file: str) -> str:
        return (self.batch.state.get("file", file) or {}).get("stamp", "")

    def _export(
        self, file: str, path: Path, selections: list[Selection], only: list[Unit] | None
    ) -> tuple[list[Unit], str]:
        """One run of Blender. Returns what it did not get to, the unit it was at first, and what it crashed with."""
        pending = list(only) if only is not None else []
        by_id = {unit.id: unit for unit in pending}
        crashed = ""
        with closing(self._open(path, file, selections, only)) as blender:
            for answer in blender:
                if not self.batch.running:
                    return [], ""
                event = answer["event"]
                if event == "index":
                    # A file that is written while it is read gets a stamp that will not be met again.
                    stamp = stamp_of(answer["paths"])
                    self.batch.state.put(
                        "file", file, {"stamp": stamp, "paths": answer["paths"], "index": answer["index"]}
                    )
                    if only is None:
                        pending = self.batch.add(_shots(selections, file, answer["index"]))
                        by_id = {unit.id: unit for unit in pending}
                elif event == "broken":
                    if pending:
                        for unit in pending:
                            self.batch.export_failed(unit, answer["message"])
                        pending = []
                    else:
                        self._add_broken(file, selections, answer["message"])
                elif event == "progress":
                    self.batch.exporting(by_id[answer["unit"]], answer["phase"])
                elif event == "failed":
                    pending.remove(by_id[answer["unit"]])
                    self.batch.export_failed(by_id[answer["unit"]], answer["message"], self._stamp(file))
                elif event == "exported":
                    unit = by_id[answer["unit"]]
                    pending.remove(unit)
                    data = Path(answer["path"]).read_bytes()
                    clip = load_clip(Path(answer["path"]))
                    Path(answer["path"]).unlink()
                    self.batch.exported_file(unit, clip, data, answer["request"], self._stamp(file))
                elif event == "ended":
                    crashed = answer["crashed"]
        return pending, crashed

    def _open(self, path: Path, file: str, selections: list[Selection], only: list[Unit] | None) -> Blender:
        request = _request(path, file, selections, trust=self._trust)
        request["only"] = None if only is None else [[unit.file, unit.scene, unit.camera, unit.action] for unit in only]
        self._running = Blender(self._blender(), request, self.batch.out / "blender.log")
        return self._running


def list_shots(files: Files, base: Path, blender: Callable[[], list[str]], log: Path, *, trust: bool) -> Iterator[Shot]:
    """The shots of a batch, without making anything: opens every .blend file."""
    for file, selections in files.items():
        path = base / file
        if not path.is_file():
            problem = f"file: there is no {file!r} in {base}; put it there, or leave it out"
            yield from unique(shot for s in selections for shot in shots_of_broken_file(s, file, problem))
        elif file.endswith(CLIP_SUFFIX):
            yield from unique(shot for s in selections for shot in shots_of_clip(s, file))
        else:
            index, problem = None, ""
            request = {**_request(path, file, selections, trust=trust), "only": None, "list_only": True}
            with closing(Blender(blender(), request, log)) as run:
                for answer in run:
                    index = answer.get("index", index)
                    problem = problem or answer.get("message", "")
                    if answer.get("crashed"):
                        problem = problem or _crash(answer["crashed"])
            if index is None:
                yield from unique(shot for s in selections for shot in shots_of_broken_file(s, file, problem))
            else:
                yield from unique(_shots(selections, file, index))


def _shots(selections: list[Selection], file: str, index: dict[str, Any]) -> list[Shot]:
    return [shot for selection in selections for shot in shots_of_scenes(selection, file, index)]


def _request(path: Path, file: str, selections: list[Selection], *, trust: bool) -> dict[str, Any]:
    return {
        "blend": str(path.absolute()),
        "file": file,
        "selections": [asdict(selection) for selection in selections],
        "list_only": False,
        "trust": trust,
    }


def _crash(text: str) -> str:
    return f"Blender crashed over it ({text}); open the file in Blender, see blender.log beside the report"
