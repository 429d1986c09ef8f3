# SPDX-License-Identifier: Apache-2.0
"""What a person can cause in an evaluation."""


class EvaluationError(ValueError):
    """An evaluation that cannot be done as asked. The message says what is wrong and what to do."""
