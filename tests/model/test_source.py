"""Where a model comes from: a folder, an installed package, or a Hub that runs in this process."""

import hashlib
import http.server
import json
import re
import socket
import threading
from dataclasses import dataclass, field, fields
from urllib.parse import unquote

import pytest
from helpers.errors import refusal
from helpers.hub import closed_port, use_endpoint

from steps.common.errors import UserError
from steps.common.launch.check import check
from steps.common.model.conf import ModelConf
from steps.common.model.source import find_source, weights_digest
from steps.common.storage import hub as hub_module

WEIGHTS = b"the weights"
OTHER_COMMIT = "b" * 40
HUB_FILES = {
    "modules.json": b"[]",
    "config.json": b"{}",
    "sub/model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
    "code.py": b"1",
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put_model(folder, **files: bytes):
    """A model's folder; files are given as name=content with `__` for the dot and `___` for the slash."""
    files = files or {"modules__json": b"[]", "model__safetensors": WEIGHTS}
    for name, content in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def find(**given):
    nothing = dict.fromkeys(field.name for field in fields(ModelConf))
    return find_source(ModelConf(**nothing | {"name": "org/model"} | given))


# a folder


def test_a_folder_is_taken_as_it_is_with_the_digest_of_its_weights(tmp_path):
    found = find(name="mine", path=put_model(tmp_path))
    assert (found.folder, found.name, found.revision, found.weights_sha256) == (tmp_path, "mine", None, sha256(WEIGHTS))


def test_a_folder_that_is_null_is_required():
    message = refusal(find, name="local")
    assert message.startswith("model.path is required: give -P model.path=<folder>. A model of the Hub is model=hub ")


def test_the_digest_that_was_expected_is_accepted(tmp_path):
    assert find(path=put_model(tmp_path), weights_sha256=sha256(WEIGHTS)).weights_sha256 == sha256(WEIGHTS)


def test_weights_of_another_digest_are_refused_with_both_digests(tmp_path):
    message = refusal(find, path=put_model(tmp_path), weights_sha256="0" * 64)
    assert sha256(WEIGHTS) in message and "0" * 64 in message and "model.weights_sha256" in message


def test_a_plain_transformer_with_config_json_is_a_model(tmp_path):
    assert find(path=put_model(tmp_path, config__json=b"{}", model__safetensors=WEIGHTS)).folder == tmp_path


def test_the_digest_of_several_files_depends_on_their_names_and_contents(tmp_path):
    first = put_model(tmp_path / "1", modules__json=b"[]", a__safetensors=b"x", b__safetensors=b"y")
    swapped = put_model(tmp_path / "2", modules__json=b"[]", a__safetensors=b"y", b__safetensors=b"x")
    moved = put_model(tmp_path / "3", modules__json=b"[]", a__safetensors=b"x", sub___b__safetensors=b"y")
    same = put_model(tmp_path / "4", modules__json=b"[1]", b__safetensors=b"y", a__safetensors=b"x")
    assert weights_digest(first) == weights_digest(same)
    assert len({weights_digest(folder) for folder in (first, swapped, moved)}) == 3


def test_a_folder_that_is_not_there_is_refused_with_the_key(tmp_path):
    assert f"model.path={tmp_path}/none" in refusal(find, path=tmp_path / "none")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    assert "is not a folder" in refusal(find, path=tmp_path / "model.safetensors")


def test_a_folder_without_a_model_says_what_was_expected(tmp_path):
    message = refusal(find, path=put_model(tmp_path, readme__md=b"hello"))
    assert str(tmp_path) in message and "modules.json or config.json" in message


def test_a_folder_without_weights_says_what_was_expected(tmp_path):
    assert "expected model.safetensors" in refusal(find, path=put_model(tmp_path, modules__json=b"[]"))


@pytest.mark.parametrize(
    "place", ["pytorch_model__bin", "0_Transformer___pytorch_model__bin", "pytorch_model-00001-of-00002__bin"]
)
def test_weights_that_are_a_pickle_only_are_refused(tmp_path, place):
    message = refusal(find, path=put_model(tmp_path, modules__json=b"[]", **{place: b"pickle"}))
    assert "pytorch_model" in message and "pickle" in message and "safetensors" in message


def test_a_pickled_module_beside_safe_ones_is_refused(tmp_path):
    files = {"modules__json": b"[]", "model__safetensors": WEIGHTS, "2_Dense___pytorch_model__bin": b"pickle"}
    assert "2_Dense" in refusal(find, path=put_model(tmp_path, **files))


def test_a_pickle_beside_the_same_weights_as_safetensors_is_not_in_the_way(tmp_path):
    found = find(
        path=put_model(tmp_path, modules__json=b"[]", model__safetensors=WEIGHTS, pytorch_model__bin=b"pickle")
    )
    assert found.weights_sha256 == sha256(WEIGHTS)


# a package


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that carries a model, and must not be imported."""
    folder = tmp_path / "site" / "weights_in_a_wheel"
    put_model(folder / "model")
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def test_a_package_is_found_without_importing_it(package):
    found = find(package="weights_in_a_wheel", revision="a" * 40)
    assert (found.folder, found.name, found.revision, found.weights_sha256) == (
        package / "model",
        "org/model",
        "a" * 40,
        sha256(WEIGHTS),
    )


def test_a_package_with_other_weights_is_refused(package):
    assert "model.weights_sha256" in refusal(find, package="weights_in_a_wheel", weights_sha256="0" * 64)


def test_a_path_wins_over_a_package(package, tmp_path):
    folder = put_model(tmp_path / "mine")
    assert find(package="weights_in_a_wheel", path=folder).folder == folder


def test_the_default_model_is_installed_and_is_what_its_config_says():
    (config,) = check("log_model", [])
    spec = config.model
    found = find(name=spec.name, revision=spec.revision, package=spec.package, weights_sha256=spec.weights_sha256)
    assert found.weights_sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


# the Hub


@dataclass
class FakeHub:
    """What the fake Hub has: repositories as {id: {revision: commit}} and the files of every commit."""

    endpoint: str = ""
    revisions: dict = field(default_factory=lambda: {"org/model": {"main": "a" * 40, "v1": OTHER_COMMIT}})
    files: dict = field(default_factory=lambda: dict(HUB_FILES))
    gated: set = field(default_factory=set)
    broken: bool = False
    asked: list = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict, bytes]:
        self.asked.append(path)
        if path == "/":
            return 200, {}, b"the hub"
        if self.broken:
            return 500, {}, b"oops"
        if api := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            repo, what, revision = map(unquote, api.groups())
            if repo not in self.revisions:
                return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}"
            commit = self.commit(repo, revision)
            if commit is None:
                return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b"{}"
            if what == "revision":
                return (
                    200,
                    {},
                    json.dumps(
                        {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in self.files]}
                    ).encode(),
                )
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": sha256(content)[:40]}
                for name, content in self.files.items()
            ]
            return 200, {}, json.dumps(tree).encode()
        if file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, revision, name = map(unquote, file.groups())
            if repo in self.gated:
                return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b""
            content = self.files[name]
            return 200, {"X-Repo-Commit": self.commit(repo, revision), "ETag": f'"{sha256(content)[:40]}"'}, content
        return 404, {}, b""

    def commit(self, repo: str, revision: str) -> str | None:
        known = self.revisions[repo]
        return known.get(revision, revision if revision in known.values() else None)

    def fetched(self) -> set[str]:
        return {path.split("/resolve/")[1].partition("/")[2] for path in self.asked if "/resolve/" in path}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, content = fake.answer(self.path.partition("?")[0])
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    fake.endpoint = f"http://127.0.0.1:{server.server_port}"
    use_endpoint(monkeypatch, tmp_path, fake.endpoint)
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def requests(monkeypatch):
    """Seconds that each request would wait for a connection."""
    import httpx

    sent, send = [], httpx.Client.send

    def count(client, request, **more):
        sent.append(request.extensions["timeout"]["connect"])
        return send(client, request, **more)

    monkeypatch.setattr(httpx.Client, "send", count)
    return sent


def test_a_branch_is_downloaded_at_the_commit_it_points_to(hub):
    found = find(revision="main")
    assert (found.name, found.revision, found.weights_sha256) == ("org/model", "a" * 40, sha256(WEIGHTS))
    assert (found.folder / "modules.json").read_bytes() == b"[]"
    assert (found.folder / "sub" / "model.safetensors").read_bytes() == WEIGHTS


def test_a_tag_is_resolved_to_its_commit(hub):
    assert find(revision="v1").revision == OTHER_COMMIT


def test_without_a_revision_main_is_taken(hub):
    assert find(revision=None).revision == "a" * 40


def test_a_full_commit_is_downloaded_as_itself(hub):
    assert find(revision=OTHER_COMMIT).revision == OTHER_COMMIT


def test_pickles_and_code_are_not_downloaded(hub):
    find(revision="main")
    assert hub.fetched() == {"modules.json", "config.json", "sub/model.safetensors"}


def test_code_is_downloaded_where_it_is_trusted(hub):
    find(revision="main", trust_remote_code=True)
    assert "code.py" in hub.fetched()
    assert "pytorch_model.bin" not in hub.fetched()


def test_a_package_that_is_not_installed_leaves_it_to_the_hub(hub):
    assert find(package="no_such_package_anywhere", revision="main").revision == "a" * 40


def test_weights_of_the_hub_of_another_digest_are_refused(hub):
    assert "model.weights_sha256" in refusal(find, revision="main", weights_sha256="0" * 64)


def test_a_full_commit_in_the_cache_needs_no_network(hub, tmp_path, monkeypatch):
    first = find(revision="main")
    use_endpoint(monkeypatch, tmp_path, f"http://127.0.0.1:{closed_port()}")
    assert find(revision=first.revision) == first


def test_a_full_commit_in_the_cache_asks_the_hub_nothing(hub):
    first = find(revision="main")
    hub.asked.clear()
    assert find(revision=first.revision) == first
    assert hub.asked == []


def test_a_commit_that_is_half_in_the_cache_is_completed(hub):
    found = find(revision="main")
    (found.folder / "sub" / "model.safetensors").unlink()
    assert find(revision=found.revision).weights_sha256 == sha256(WEIGHTS)
    (found.folder / "modules.json").unlink()
    assert (find(revision=found.revision).folder / "modules.json").exists()


def test_trusting_code_fetches_what_the_cache_was_not_asked_for_before(hub):
    found = find(revision="main")
    assert not (found.folder / "code.py").exists()
    assert (find(revision=found.revision, trust_remote_code=True).folder / "code.py").exists()


def test_offline_a_cached_branch_is_found(hub, tmp_path, monkeypatch):
    first = find(revision="main")
    use_endpoint(monkeypatch, tmp_path, hub.endpoint, offline=True)
    hub.asked.clear()
    assert find(revision="main") == first
    assert hub.asked == []


@pytest.mark.parametrize("revision", ["main", "a" * 40])
def test_offline_a_model_that_is_not_cached_says_what_works(hub, tmp_path, monkeypatch, revision):
    use_endpoint(monkeypatch, tmp_path, hub.endpoint, offline=True)
    message = refusal(find, revision=revision)
    assert "org/model" in message and "HF_HUB_OFFLINE" in message and "model=all-MiniLM-L6-v2" in message
    assert hub.asked == []


def test_an_unknown_model_says_so(hub):
    message = refusal(find, name="org/none")
    assert "'org/none'" in message and "model.name" in message and "HF_TOKEN" in message


def test_an_unknown_model_at_a_full_commit_says_so(hub):
    assert "'org/none'" in refusal(find, name="org/none", revision="c" * 40)


@pytest.mark.parametrize("revision", ["no-such-branch", "c" * 40, "abc123"])
def test_an_unknown_revision_says_so(hub, revision):
    message = refusal(find, revision=revision)
    assert f"org/model has no revision {revision!r}" in message and "model.revision" in message


def test_a_revision_with_a_slash_can_be_named(hub):
    hub.revisions["org/model"]["refs/pr/1"] = OTHER_COMMIT
    assert find(revision="refs/pr/1").revision == OTHER_COMMIT


@pytest.mark.parametrize("revision", ["main", "a" * 40])
def test_a_gated_model_says_where_to_accept_its_terms(hub, revision):
    hub.gated.add("org/model")
    message = refusal(find, revision=revision)
    assert f"{hub.endpoint}/org/model" in message and "HF_TOKEN" in message


@pytest.mark.parametrize("name", ["a/b/c", "with space/model", "org/..", "org/model.git"])
@pytest.mark.parametrize("offline", [False, True])
def test_a_name_that_is_no_hub_id_is_refused(hub, tmp_path, monkeypatch, name, offline):
    use_endpoint(monkeypatch, tmp_path, hub.endpoint, offline)
    message = refusal(find, name=name)
    assert repr(name) in message and "model.name" in message


def test_a_model_of_the_hub_without_safetensors_is_refused(hub):
    del hub.files["sub/model.safetensors"]
    message = refusal(find, revision="main")
    assert "safetensors" in message


def test_a_repository_without_a_model_is_refused(hub):
    hub.files = {"README.md": b"hello", "data.json": b"{}"}
    assert "modules.json or config.json" in refusal(find, revision="main")


@pytest.mark.parametrize("revision", ["main", "a" * 40])
def test_a_hub_that_cannot_be_reached_is_asked_once_and_says_what_works(tmp_path, monkeypatch, requests, revision):
    endpoint = f"http://127.0.0.1:{closed_port()}"
    use_endpoint(monkeypatch, tmp_path, endpoint)
    message = refusal(find, revision=revision)
    assert requests == [hub_module.HUB_TIMEOUT]
    assert endpoint in message and "model=all-MiniLM-L6-v2" in message and "model.path=<folder>" in message


def test_a_hub_that_takes_the_call_and_never_answers_is_asked_once(tmp_path, monkeypatch, requests):
    monkeypatch.setattr(hub_module, "HUB_TIMEOUT", 0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        use_endpoint(monkeypatch, tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert "cannot be reached" in refusal(find, revision="main")
    assert requests == [0.5]


@pytest.mark.parametrize("revision", ["main", "a" * 40])
def test_a_hub_that_is_broken_is_not_asked_again_and_says_what_works(hub, revision):
    hub.broken = True
    with pytest.raises(UserError) as caught:
        find(revision=revision)
    assert len(set(hub.asked)) == len(hub.asked), "something was asked for again"
    message = str(caught.value)
    assert "org/model" in message and hub.endpoint in message and "model=all-MiniLM-L6-v2" in message
