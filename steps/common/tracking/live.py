"""What is told to MLflow while a step computes."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import mlflow
import pyarrow as pa
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException

from steps.common.errors import UserError
from steps.common.storage.output import Output
from steps.common.storage.place import locate
from steps.common.storage.stream import sha256
from steps.common.tracking import server

logger = logging.getLogger("steps")

# Where a run holds its embeddings.
EMBEDDINGS = "embeddings"

# Seconds between two figures on the way.
LIVE_SECONDS = 10.0


class RunOutput(Output):
    """Parts that are uploaded as artifacts of a run, and then deleted from this disk.

    Uploads have a thread of their own: while the server is away, parts wait on the disk and computing continues.
    """

    def __init__(self, run_id: str, scratch: Path):
        super().__init__(locate(scratch), scratch)
        self._run_id, self._client, self._scratch = run_id, mlflow.MlflowClient(), scratch
        self._thread = ThreadPoolExecutor(1, "upload")
        self._uploads: list[Future] = []

    def __str__(self) -> str:
        return f"runs:/{self._run_id}/{EMBEDDINGS}"

    def put(self, temporary: Path, name: str) -> None:
        super().put(temporary, name)
        # Hidden files serve to resume or repair an output; neither can be done in a run.
        if not name.startswith("."):
            self._raise_failed()
            self._uploads.append(self._thread.submit(self._move, self._scratch / name))

    def _move(self, path: Path) -> None:
        folder = path.parent.relative_to(self._scratch).as_posix()
        self._client.log_artifact(self._run_id, str(path), EMBEDDINGS if folder == "." else f"{EMBEDDINGS}/{folder}")
        path.unlink()

    def _raise_failed(self) -> None:
        self._wait([upload for upload in self._uploads if upload.done()])

    def flush(self) -> None:
        self._wait(list(self._uploads))

    def _wait(self, uploads: list[Future]) -> None:
        for upload in uploads:
            self._uploads.remove(upload)
            with server.needed(
                "the embeddings cannot be uploaded into their run",
                "Encode again when the tracking server and its artifact store answer, or give -P output=<folder or URI>, which can be resumed.",
            ):
                upload.result()

    def size(self, name: str) -> int | None:
        here = super().size(name)
        if here is not None or name.startswith("."):
            return here
        self.flush()
        folder = name.rpartition("/")[0]
        sizes = {entry.path: entry.file_size for entry in self._list(folder)}
        return sizes.get(f"{EMBEDDINGS}/{name}")

    def _list(self, folder: str) -> list[FileInfo]:
        with server.needed(f"{self} cannot be listed", "Run the same command again when the tracking server answers."):
            return self._client.list_artifacts(self._run_id, f"{EMBEDDINGS}/{folder}".rstrip("/"))

    def facts(self, name: str) -> tuple[int, str] | None:
        with self.fetched(name) as path:
            return path.stat().st_size, sha256(locate(path))

    @contextlib.contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        self.flush()
        folder = self.workspace / "fetched"
        folder.mkdir(parents=True, exist_ok=True)
        uri = f"runs:/{self._run_id}/{EMBEDDINGS}/{name}"
        path = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[pa.NativeFile]:
        with self.fetched(name) as path:
            yield pa.OSFile(str(path))

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


class FinishedRunOutput(RunOutput):
    """An output that a finished run holds: its files are fetched as they are asked for."""

    def __init__(self, run_id: str, scratch: Path):
        super().__init__(run_id, scratch)
        self._listed: dict[str, list[FileInfo]] = {}

    def names(self, folder: str | None = None) -> list[str]:
        base = f"{EMBEDDINGS}/{folder}" if folder else EMBEDDINGS
        return [entry.path.removeprefix(f"{base}/") for entry in self._list(folder or "")]

    def _list(self, folder: str) -> list[FileInfo]:
        if folder not in self._listed:
            self._listed[folder] = super()._list(folder)
        return self._listed[folder]

    def read_bytes(self, name: str) -> bytes:
        if self.size(name) is None:
            raise UserError(f"{self}/{name} does not exist.")
        with self.fetched(name) as path:
            return path.read_bytes()


class LiveMetrics:
    """Logs the progress of an encode from a daemon thread, so that a stop does not wait for a server that is away."""

    def __init__(self, run_id: str):
        self._run_id, self._client = run_id, mlflow.MlflowClient()
        self._newest: dict[str, int] | None = None
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._log, name="live metrics", daemon=True)

    def __enter__(self) -> "LiveMetrics":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        self._wake.set()

    def rows(self, done: int) -> None:
        self.counts({"rows": done})

    def counts(self, done: dict[str, int]) -> None:
        """How many are done, by the names of what is counted."""
        self._newest = done

    def _log(self) -> None:
        away, before = False, (time.monotonic(), self._newest or {})
        while not self._wake.wait(LIVE_SECONDS):
            done, self._newest = self._newest, None
            if done is None:
                continue
            (then, there), before = before, (time.monotonic(), done)
            try:
                for name, count in done.items():
                    self._client.log_metric(self._run_id, f"encode/{name}_done", count, step=count)
                    if name in there:
                        rate = (count - there[name]) / (before[0] - then)
                        self._client.log_metric(self._run_id, f"encode/{name}_per_second_now", rate, step=count)
                if away:
                    logger.info("the tracking server answers again")
                away = False
            except MlflowException as error:
                if not away and not self._closed:
                    logger.warning("the tracking server does not answer, encoding continues: %s", server.reason(error))
                away = True


@contextlib.contextmanager
def recording(where: str) -> Iterator[None]:
    """Log the results of a whole output; raises UserError where the tracking server stays away."""
    with server.needed(
        f"the embeddings at {where} are whole, but the tracking server has not taken the results",
        "Run the same command again when it answers: nothing is computed twice.",
    ):
        yield


def close_lost_runs(run_ids: list[str], by: str) -> None:
    """Mark runs that began an output and have no final status, after kill -9 or without their server, as KILLED."""
    client = mlflow.MlflowClient()
    for run_id in run_ids:
        with server.optional(f"run {run_id}, which began this output, is not marked KILLED"):
            if run_id != by and client.get_run(run_id).info.status == "RUNNING":
                client.set_tag(run_id, "error", f"ended without a final status; run {by} resumed its output")
                client.set_terminated(run_id, "KILLED")
