# SPDX-License-Identifier: GPL-3.0-or-later
"""HVG-3D for Blender: a hand-object scene becomes a video of a real hand and object.

Importing the package does not import ``bpy`` and registers nothing, so that the client and the tests can use its parts
anywhere. Blender calls :func:`register` and :func:`unregister`.
"""

from __future__ import annotations


def register() -> None:
    from . import registration

    registration.register()


def unregister() -> None:
    from . import registration

    registration.unregister()
