"""The one exception a user is meant to read, and how a message becomes one line."""


class UserError(Exception):
    """Something the user can put right. One line: what was expected, what was found, what to type instead."""


def clip(text: object, limit: int = 200) -> str:
    """A text on one line, cut to `limit` letters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[:limit]}..."


def first_line(error: BaseException) -> str:
    """The first line of an error's message, printable and without its full stop, cut to 300 letters."""
    text = str(error).strip()
    line = text.splitlines()[0].rstrip(".") if text else type(error).__name__
    return clip("".join(c if c.isprintable() else repr(c)[1:-1] for c in line), 300)


# Note on what stopped a step: its run has been marked so.
KILLED = "run marked KILLED"


class Stopped(BaseException):
    """SIGTERM arrived. Not an Exception, so that no step takes it for a failure of its own."""


def one_line(error: BaseException) -> str:
    """The message of an error, on one line; an error nobody foresaw also gets its type and where to see more."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text} (set HYDRA_FULL_ERROR=1 for the traceback)"
