# SPDX-License-Identifier: GPL-3.0-or-later
"""The sidebar tab "HVG-3D" of the 3D viewport. Draws what properties and runtime say, and decides nothing."""
