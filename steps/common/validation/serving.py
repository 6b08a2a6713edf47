"""What a scoring server answers: every kind of request, right and wrong, and under load."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import numpy as np

from steps.common.errors import clip
from steps.common.validation.checks import Check, check_close
from steps.common.validation.rules import ServingConf
from steps.common.validation.server import Server


class InProcess:
    """The scoring server's code, an ASGI app, asked without a process or port."""

    def __init__(self, app: Callable):
        self._app = app

    def post(self, path: str, *, content: bytes, headers: dict[str, str]) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://model", timeout=None) as client:
                return await client.post(path, content=content, headers=headers)

        return asyncio.run(send())


# What requests are sent through.
Client = httpx.Client | InProcess


def payloads(examples: Sequence[str], params: dict) -> dict[str, dict]:
    """Every payload that mlflow documents for a model of one string column, by name."""
    return {
        "inputs": {"inputs": list(examples)},
        "single_string": {"inputs": examples[0]},
        "dataframe_split": {"dataframe_split": {"columns": ["text"], "data": [[text] for text in examples]}},
        "dataframe_records": {"dataframe_records": [{"text": text} for text in examples]},
        "params": {"inputs": list(examples), "params": params},
    }


# Requests that have to be refused: body and content type, by name. (A number under `inputs` is not among them: mlflow
# 3.17.2 turns it into text. In a DataFrame it stays a number.)
BAD_REQUESTS = {
    "wrong_key": (json.dumps({"sentences": ["a text"]}), "application/json"),
    "number": (json.dumps({"dataframe_records": [{"text": 3}]}), "application/json"),
    "null": (json.dumps({"inputs": None}), "application/json"),
    "object": (json.dumps({"inputs": {"text": "a text"}}), "application/json"),
    "malformed_json": ('{"inputs": ["a text"', "application/json"),
    "param_type": (json.dumps({"inputs": ["a text"], "params": {"batch_size": "many"}}), "application/json"),
    "content_type": (json.dumps({"inputs": ["a text"]}), "text/plain"),
}


def check_protocol(
    client: Client, predict: Callable, examples: Sequence[str], params: dict, tolerance: float
) -> list[Check]:
    """Every documented payload gives the vectors of the model; a wrong request gets a 4xx and a reason.

    Args:
        predict: the model itself: (texts, params=...) -> float32 [n, dim].
        params: inference params that change the result.
    """
    expected = {"single_string": predict([examples[0]]), "params": predict(list(examples), params=params)}
    whole = predict(list(examples))

    def predictions(body: dict) -> list:
        return body["predictions"]

    return [
        *(
            check_answer(
                f"serving/{name}",
                post(client, json.dumps(payload)),
                predictions,
                expected.get(name, whole),
                tolerance,
            )
            for name, payload in payloads(examples, params).items()
        ),
        *(check_refusal(f"serving/refuses_{name}", post(client, *request)) for name, request in BAD_REQUESTS.items()),
    ]


def post(client: Client, body: str, content_type: str = "application/json") -> httpx.Response | httpx.HTTPError:
    """Send a request to a model; an error of the connection is returned."""
    try:
        return client.post("/invocations", content=body.encode(), headers={"Content-Type": content_type})
    except httpx.HTTPError as error:
        return error


def check_answer(
    name: str,
    response: httpx.Response | httpx.HTTPError,
    read: Callable[[dict], object],
    expected: np.ndarray,
    tolerance: float,
) -> Check:
    """The embeddings that `read` finds in a response are those expected, number by number."""
    status, reason = _status(response)
    if isinstance(response, httpx.Response) and status == 200:
        try:
            found = np.array(read(response.json()), np.float32)
            return check_close(name, found, expected, tolerance)
        except (ValueError, KeyError, TypeError):
            reason = f"200, but no embeddings: {reason}"
    else:
        reason = f"{status}: {reason}"
    return Check(name, reason, f"<= {tolerance:g}", False)


def check_refusal(name: str, response: httpx.Response | httpx.HTTPError) -> Check:
    """The response says that the request was wrong, and why."""
    status, reason = _status(response)
    return Check(name, f"{status}: {reason}", "= 4xx and a reason", 400 <= status < 500 and bool(reason))


def _status(response: httpx.Response | httpx.HTTPError) -> tuple[int, str]:
    """Status and reason of a response, on one line; 0 where there is none."""
    if isinstance(response, httpx.HTTPError):
        return 0, f"{type(response).__name__} {response}".strip()
    try:
        reason = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        reason = response.text
    return response.status_code, clip(reason, 60)


@dataclass(frozen=True)
class Load:
    """Result of a load test: milliseconds of each answer, reasons of the failures, seconds in all."""

    latencies_ms: np.ndarray
    failures: list[str]
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Latency and throughput; latencies are left out where nothing was answered."""
        answered = len(self.latencies_ms)
        metrics = {
            "serving/requests": float(answered + len(self.failures)),
            "serving/failed_requests": float(len(self.failures)),
            "serving/requests_per_second": answered / self.seconds,
        }
        if answered:
            metrics |= {f"serving/p{q}_ms": float(np.percentile(self.latencies_ms, q)) for q in (50, 95, 99)}
        return metrics

    def check(self) -> Check:
        """Not one request failed."""
        value = str(len(self.failures)) + (f", such as {self.failures[0]}" if self.failures else "")
        return Check("serving/failed_requests", value, "= 0", not self.failures and len(self.latencies_ms) > 0)


def run_load(server: Server, sentences: Sequence[str], clients: int, seconds: float) -> Load:
    """Let several clients ask at once for some seconds, each one sentence after another."""
    stop = threading.Event()
    start = time.monotonic()

    def ask(number: int) -> tuple[list[float], list[str]]:
        latencies, failures = [], []
        with server.client() as client:
            turn = number
            while not stop.is_set() and (time.monotonic() - start < seconds or turn == number):
                body = json.dumps({"inputs": [sentences[turn % len(sentences)]]})
                before = time.perf_counter()
                status, reason = _status(post(client, body))
                if status == 200:
                    latencies.append((time.perf_counter() - before) * 1000)
                else:
                    failures.append(f"{status}: {reason}")
                turn += 1
        return latencies, failures

    with ThreadPoolExecutor(clients) as pool:
        try:
            results = list(pool.map(ask, range(clients)))
        finally:
            # After Ctrl-C too: the pool waits for its threads.
            stop.set()
    taken = time.monotonic() - start
    latencies = [ms for some, _ in results for ms in some]
    return Load(np.array(latencies), [reason for _, some in results for reason in some], taken)


def check_server(
    server: Server,
    predict: Callable,
    examples: Sequence[str],
    params: dict,
    *,
    tolerance: float,
    asked: ServingConf,
) -> tuple[list[Check], dict[str, float]]:
    """All checks of a started server, and its metrics; the server is stopped then.

    Args:
        predict, examples, params, tolerance: as check_protocol.
        asked: seconds that it may take to start, and the load.

    Raises:
        UserError: another process took its port meanwhile.
    """
    trouble = server.wait(asked.start_timeout)
    starts = Check("serving/starts", trouble or "answers /ping", "= answers /ping", trouble is None)
    if trouble:
        server.stop()
        return [starts], {}
    metrics: dict[str, float] = {}
    with server.client() as client:
        checks = [starts, *check_protocol(client, predict, examples, params, tolerance)]
    if asked.load_seconds > 0:
        load = run_load(server, examples, asked.clients, asked.load_seconds)
        checks.append(load.check())
        metrics = load.metrics()
    server.stop()
    return checks, metrics
