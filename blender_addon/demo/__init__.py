# SPDX-License-Identifier: GPL-3.0-or-later
"""A scripted grasp on a table, and random scenes like it: what the demo shows and what the nano model learns from."""
