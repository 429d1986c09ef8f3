# SPDX-License-Identifier: Apache-2.0
"""The page that the server shows at ``/``: plain files in ``static``, without a build step. See its README section."""
