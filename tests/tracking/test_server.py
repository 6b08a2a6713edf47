"""A tracking server that does not answer: at the start, while a step runs, and after it was given up."""

import http.server
import os
import socket
import threading

import pytest
from helpers.errors import refusal

from steps.common.errors import UserError
from steps.common.tracking import server


@pytest.fixture
def silent():
    """The address of a server that takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def refusing():
    """The address of a server that answers every call with 403."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b'{"error_code": "PERMISSION_DENIED", "message": "not you"}'
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *words) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_a_server_that_refuses_the_connection_is_named_with_the_reason(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 cannot be reached \(\[Errno 111\] Connection refused\)"):
        server.check_reachable()


def test_a_server_that_takes_the_call_and_never_answers_is_given_up_in_time(monkeypatch, silent):
    monkeypatch.setattr(server, "SERVER_TIMEOUT", 0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent)
    with pytest.raises(UserError, match=f"{silent} cannot be reached .no answer in 0.5 s"):
        server.check_reachable()
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", silent)
    with pytest.raises(UserError, match=f"{silent} gives no model registry .no answer in 0.5 s"):
        server.check_registry()


def test_a_store_without_a_registry_is_one_line(monkeypatch, store):
    server.check_registry()
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "s3://bucket")
    assert "s3://bucket gives no model registry" in refusal(server.check_registry)


def test_a_server_that_refuses_the_call_is_there(monkeypatch, refusing):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing)
    server.check_reachable()
    with pytest.raises(UserError, match="gives no model registry .*PERMISSION_DENIED: not you"):
        server.check_registry()


def test_the_patience_of_the_user_comes_before_ours_and_giving_up_ends_with_the_run(monkeypatch):
    with server.patience():
        assert os.environ[server.RETRIES] == "10"
    assert server.RETRIES not in os.environ
    monkeypatch.setenv(server.RETRIES, "3")
    with server.patience():
        assert os.environ[server.RETRIES] == "3"
        server.give_up()
        assert (os.environ[server.RETRIES], os.environ[server.TIMEOUT]) == ("1", "10")
    assert (os.environ[server.RETRIES], os.environ.get(server.TIMEOUT)) == ("3", None)


def test_what_is_needed_fails_with_what_is_lost_and_is_not_waited_for_again(monkeypatch):
    import mlflow

    client = mlflow.MlflowClient("http://127.0.0.1:9")
    monkeypatch.setenv(server.RETRIES, "0")
    lost = r"the figures are lost: \[Errno 111\] Connection refused. Try again."
    with server.patience():
        with pytest.raises(UserError, match=lost), server.needed("the figures are lost", "Try again."):
            client.log_metric("some-run", "a", 1)
        assert os.environ[server.RETRIES] == "1"


def test_what_is_optional_is_a_line_in_the_log(monkeypatch, log_messages):
    import mlflow

    monkeypatch.setenv(server.RETRIES, "0")
    with server.optional("the tag is lost"):
        mlflow.MlflowClient("http://127.0.0.1:9").set_tag("some-run", "a", "b")
    assert log_messages == ["the tag is lost: [Errno 111] Connection refused"]
