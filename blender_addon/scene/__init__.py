# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a Blender scene: meshes, cameras, reference images. Nothing here changes the scene for longer than a call."""
