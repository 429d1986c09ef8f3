# SPDX-License-Identifier: GPL-3.0-or-later
"""A scripted grasp in a tabletop scene, and random scenes like it: what the demo shows and what the nano model learns from."""
