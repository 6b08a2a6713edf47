"""The one exception a user is meant to read, and how a message becomes one line."""


class UserError(Exception):
    """Something the user can put right. One line: what was expected, what was found, what to type instead."""


def clip(text: object, limit: int = 200) -> str:
    """A text on one line, cut to `limit` letters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[:limit]}..."
