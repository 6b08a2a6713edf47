"""The one exception a user is meant to read."""


class UserError(Exception):
    """Something the user can put right. One line: what was expected, what was found, what to type instead."""
