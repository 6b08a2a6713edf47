"""The errors that a user gets."""

import pytest

from steps.common.errors import UserError


def refusal(call, *given, **options) -> str:
    """What a call says that raises UserError: one line."""
    with pytest.raises(UserError) as caught:
        call(*given, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
