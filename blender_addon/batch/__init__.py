# SPDX-License-Identifier: GPL-3.0-or-later
"""Many shots in one go: scenes x cameras x actions x seeds, resumable, with a report at the end.

Why all of it is here and not in the library. A batch runs in three places: in Blender's window, in Blender without
one (``--command hvg3d batch``), and behind ``hvg3d batch FOLDER``, where Blender is at most a child process. The first
two run in Blender's Python, which sees ``hvg3d_core.conditions`` and nothing else of the library; so whatever they need
has to be in the add-on. The third needs exactly the same: plan, state, the courier that talks to the server, the
report. Put into the library, all of it would exist twice. So it is here once, on Python's standard library and the
add-on's own client, and ``hvg3d batch`` runs it as a process of its own (``python -m blender_addon.batch``), as
``hvg3d export`` does with the export. The arrows between the rooms stay as they are.

``plan`` reads what is wanted and says which shots that makes; ``state`` remembers what has become of them; ``courier``
is the thread that brings clips to the server and videos back; ``job`` ties the three together; ``report`` writes the
page. None of these imports ``bpy``. ``shots`` does: it lists the shots of the open file and exports them; ``actions``
gives an action to what it was made for. ``session`` is the one batch of a running Blender. ``files``, ``child`` and
``__main__`` are the batch over many files.
"""
