"""See that a tracking server answers."""

import re

from steps.common.errors import UserError

# Seconds to wait for the first answer of a tracking server.
SERVER_TIMEOUT = 10.0


def reach_tracking_server(uri: str) -> None:
    """Fail at once where mlflow's client would retry for minutes. Any answer will do."""
    if uri.startswith(("http://", "https://")):
        import httpx

        try:
            httpx.get(f"{uri.rstrip('/')}/health", timeout=SERVER_TIMEOUT)
        except httpx.HTTPError as error:
            raise UserError(
                f"the tracking server at {without_password(uri)} cannot be reached ({error or type(error).__name__}). Start it, or set MLFLOW_TRACKING_URI to one that runs."
            ) from None


def without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)
