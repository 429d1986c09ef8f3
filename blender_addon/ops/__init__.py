# SPDX-License-Identifier: GPL-3.0-or-later
"""Operators: everything the panels' buttons do, callable as ``bpy.ops.hvg3d.*``."""
