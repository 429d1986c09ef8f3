# SPDX-License-Identifier: GPL-3.0-or-later
"""A server on this computer: found, installed, started, watched and stopped from Blender.

``care`` is all that the rest of the add-on sees. ``text`` mends what people type, ``pythons`` knows where Pythons are,
``find`` which server to start, ``local`` starts and ends its process, ``failures`` says why that did not work;
``environment`` is the folder of a managed installation, ``pip`` and ``install`` fill it from a ``wheel``. ``buttons``
are the remedies as operators. Nothing here imports ``bpy``; ``care`` lives in the main thread, what blocks runs in
others.
"""
