# SPDX-License-Identifier: Apache-2.0
"""The page that the server shows, driven in a real Chromium."""
