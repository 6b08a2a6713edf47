"""The one exception a user is meant to read."""


class UserError(Exception):
    """Something the user can put right. One line: what was expected, what was found, what to type instead."""


class Stopped(BaseException):
    """SIGTERM arrived. Not an Exception, so that no step takes it for a failure of its own."""


def one_line(error: BaseException) -> str:
    """The message of an error, on one line; an error nobody foresaw also gets its type and where to see more."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text} (set HYDRA_FULL_ERROR=1 for the traceback)"
