# SPDX-License-Identifier: GPL-3.0-or-later
"""Talking to an HVG-3D server. Standard library only, and never ``bpy``: all of this may run in threads."""
