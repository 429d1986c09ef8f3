# SPDX-License-Identifier: GPL-3.0-or-later
"""What a batch over many files runs inside Blender, once for each file: open it, list its shots, export those wanted.

``blender -b --factory-startup --python child.py -- REQUEST``, or ``python child.py REQUEST`` with Blender as a module.
REQUEST is a JSON file (see ``files.Request``). Answers are lines on standard output that begin with :data:`MARK`;
everything else there is Blender talking. Ends with the process that started it, which holds its standard input open.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

MARK = "HVG3D-BATCH "


def say(event: str, **values) -> None:
    # One write, so that a line is whole even where Blender prints from other threads.
    os.write(1, f"\n{MARK}{json.dumps({'event': event, **values})}\n".encode())


def end_with_parent() -> None:
    def watch() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


def main(request_file: str) -> None:
    request = json.loads(Path(request_file).read_text("utf-8"))
    end_with_parent()
    sys.path.insert(0, request["root"])
    import bpy

    import blender_addon
    from blender_addon.batch import shots
    from blender_addon.batch.plan import Selection, Unit
    from blender_addon.core import ClipError, save_clip

    blender_addon.register()
    bpy.context.preferences.filepaths.use_scripts_auto_execute = bool(request["trust"])
    try:
        bpy.ops.wm.open_mainfile(filepath=request["blend"], load_ui=False, use_scripts=bool(request["trust"]))
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition(": ")[2] or "it is no .blend file"
        say("broken", message=f"file: {request['file']!r} cannot be opened ({reason}); save it again, or leave it out")
        return
    index, paths = shots.file_index(), shots.file_paths()
    say("index", index=index, paths=paths)
    if request["only"] is None:
        selections = [_selection(Selection, values) for values in request["selections"]]
        listed = (shot.unit for shot in shots.shots_of_open_file(selections, request["file"]))
        units = [unit for unit in dict.fromkeys(listed) if not unit.problem]
    else:
        units = [Unit(*values) for values in request["only"]]
    if request["list_only"]:
        units = []
    for unit in units:
        try:
            steps = shots.iter_unit(unit)
            while True:
                try:
                    progress = next(steps)
                except StopIteration as end:
                    clip, settings = end.value
                    break
                say("progress", unit=unit.id, phase=shots.phase_text(progress))
            path = Path(request["clips"]) / f"{unit.id}.safetensors"
            save_clip(clip, path)
        except (ClipError, OSError, RuntimeError) as error:
            say("failed", unit=unit.id, message=str(error).strip())
        else:
            say("exported", unit=unit.id, path=str(path), request=settings)


def _selection(kind, values: dict):
    """A dataclass whose tuples have become lists on their way through JSON."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    fields["request"] = tuple((name, value) for name, value in values["request"])
    return kind(**fields)


if __name__ == "__main__":
    code = 0
    try:
        main(sys.argv[-1])
        say("end")
    except BaseException as error:
        say(
            "broken",
            message=f"Blender: {type(error).__name__}: {error}; this is a fault of the add-on, please report it",
        )
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Blender's own clean-up at exit can take seconds
