# SPDX-License-Identifier: GPL-3.0-or-later
"""Finished videos: their files, what is known of them, and how they are looked at."""
