"""explore on the tiny model: what its run holds, what it refuses, and the page in a real browser without a network."""

import contextlib
import html
import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import requests
from helpers.browser import BROWSER, DESKTOP, PHONE, browsing
from helpers.hostile import ARABIC, FAMILY, SCRIPT, TEXTS
from helpers.project import PROJECT
from helpers.steps import error_of, last_json
from helpers.stores import copy_store
from sentence_transformers import SentenceTransformer, util

HERE = re.compile(r"http://127\.0\.0\.1:\d+/")


def artifact(summary: dict, name: str) -> Path:
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(f"runs:/{summary['run_id']}/{name}"))


def test_the_run_holds_a_map_that_needs_no_server(chain, step):
    import mlflow

    code, out, err = step("explore", f"run_id={chain.encode['run_id']}", "serve=false", "map.colour=year")
    assert code == 0, err
    summary = last_json(out)
    page = html.unescape(artifact(summary, "map.html").read_text(encoding="utf-8"))
    # One document, which fetches nothing, and in which no text of the corpus can run.
    assert not re.search(r"(src|href)\s*=", page.split("<script")[0])
    assert page.count("</script>") == 2 and "default-src 'none'" in page and "connect-src 'none'" in page
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [column["name"] for column in data["columns"]] == ["year", "topic"]
    assert data["ids"][:3] == ["k0", "k2", "k3"] and len(data["x"]) == 39
    assert data["values"]["year"][:2] == ["2000", "2002"] and data["values"]["topic"][0] == "<b>bold</b>"
    assert max(map(len, data["texts"])) == 203 and len(data["neighbours"][0]) == 5
    assert (min(data["x"]), min(data["y"])) == (0, 0) and max(data["x"] + data["y"]) == 65535

    table = pq.read_table(artifact(summary, "map.parquet"))
    assert table.column_names == ["id", "text", "topic", "year", "x", "y"] and table.num_rows == 39
    run = mlflow.get_run(summary["run_id"])
    metrics = run.data.metrics
    assert (metrics["explore/rows"], metrics["explore/points"]) == (39, 39)
    assert 0 < metrics["explore/variance_share"] < 1 and 0.4 < metrics["explore/trustworthiness"] < 1
    assert run.data.tags["upstream_run_id"] == chain.encode["run_id"]
    assert run.data.tags["model_id"] == chain.log_model["model_id"]
    assert run.info.status == "FINISHED" and "open http" not in out


def test_an_index_is_explored_without_its_texts_and_on_a_sample(chain, step):
    code, out, err = step("index", f"run_id={chain.encode['run_id']}", "keep_text=false")
    assert code == 0, err
    index = last_json(out)
    for run_id in (index["run_id"], index["model_uri"]):
        code, out, err = step("explore", f"run_id={run_id}", "serve=false", "map.points=10", "map.method=tsne")
        assert code == 0, err
    page = artifact(last_json(out), "map.html").read_text(encoding="utf-8")
    assert '"texts": null' in page and "red car" not in page and "10 of 39 texts are on the map" in page

    code, out, err = step("index", f"run_id={chain.encode['run_id']}", "vectors=int8", "rescore=0")
    assert code == 0, err
    error = error_of(step("explore", f"run_id={last_json(out)['run_id']}", "serve=false"))
    assert "keeps no float32 vectors (rescore=0), and a map needs them. Give the encode run that" in error


def test_what_cannot_be_explored_is_refused_in_one_line(chain, step, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port={port} cannot be used on 127.0.0.1" in error_of(step("explore", f"port={port}"))
    assert "port is 70000; expected a port from 1 to 65535" in error_of(step("explore", "port=70000"))
    wanted = f"run_id={chain.encode['run_id']}"
    assert "this output has no kept column" in error_of(step("explore", wanted, "serve=false", "map.colour=lang"))
    error = error_of(step("explore", f"run_id={chain.log_model['run_id']}", "serve=false"))
    assert "holds no embeddings (it is a run of log_model" in error
    error = error_of(step("explore", f"run_id=models:/{chain.log_model['model_id']}", "serve=false"))
    assert "cannot be read as an index" in error

    (tmp_path / "nulls.jsonl").write_text('{"text": null}\n{"text": null}\n')
    model = f"run_id={chain.log_model['run_id']}"
    code, out, err = step(
        "encode", model, f"corpus={tmp_path}/nulls.jsonl", f"output={tmp_path}/nulls", "backend=torch"
    )
    assert code == 0, err
    error = error_of(step("explore", f"run_id={last_json(out)['run_id']}", "serve=false"))
    assert "holds no embedding: all 2 rows are null" in error

    part = next(tmp_path.glob("mlruns/*/*/artifacts/embeddings/part-00001.parquet"))
    part.write_bytes(part.read_bytes()[:-10])
    assert "do not match their manifest" in error_of(step("explore", wanted, "serve=false"))


@pytest.fixture(scope="module")
def live(encoded_store, all_forks, tmp_path_factory):
    """The page of a running explore, and what it answers as; it is ended by Ctrl-C."""
    folder = tmp_path_factory.mktemp("live")
    copy_store(encoded_store[0], folder)
    env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "HF_HUB_OFFLINE": "1"}
    env |= {"PYTHONPATH": str(PROJECT)}
    words = ("-m", "steps.explore", f"run_id={encoded_store[1].encode['run_id']}", "top_k=4", "map.points=30")
    process = all_forks.start(*words, cwd=folder, env=env)
    end = time.monotonic() + 120
    while not (found := HERE.search(process.read())):
        assert process.poll() is None and time.monotonic() < end, process.read("err")
        time.sleep(0.1)
    yield SimpleNamespace(url=found[0], process=process, env=env)
    process.kill()


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if BROWSER is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        yield found


def ask(live, path, body, **headers):
    return requests.post(live.url + path, json=body, headers=headers, timeout=60)


@pytest.mark.slow
def test_the_server_answers_by_meaning_and_refuses_what_is_not_its_page(live, tiny_model_folder):
    tiny = SentenceTransformer(str(tiny_model_folder), device="cpu")
    texts = [text for text in TEXTS if text]
    hits = ask(live, "search", {"query": "a big dog"}).json()
    (expected,) = util.semantic_search(tiny.encode(["a big dog"], prompt_name="query"), tiny.encode(texts), top_k=4)
    assert [hit["row"] for hit in hits["hits"]] == [hit["corpus_id"] for hit in expected]
    np.testing.assert_allclose([hit["score"] for hit in hits["hits"]], [hit["score"] for hit in expected], atol=1e-6)
    assert hits["truncated"] is False and ask(live, "search", {"query": "the cat " * 2000}).json()["truncated"] is True
    near = ask(live, "neighbours", {"row": 3}).json()
    assert near["row"]["text"] == "a red car" and near["row"]["columns"] == {"topic": "topic 1", "year": "2004"}
    assert near["hits"][0]["row"] == 4 and near["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    rows = [ask(live, "neighbours", {"row": row}).json()["row"] for row in range(39)]
    assert [row["row"] for row in rows] == list(range(39)) and sum(row["on_map"] for row in rows) == 30
    assert len({row["point"] for row in rows if row["on_map"]}) == 30 and max(row["point"] for row in rows) == 29
    assert len(near["hits"]) == 4 and all(hit["row"] != 3 for hit in near["hits"])

    for path, body, status, reason in (
        ("search", {"query": "  "}, 400, "The question is empty"),
        ("search", {"query": 7}, 400, 'Expected JSON with "query"'),
        ("search", ["query"], 400, 'Expected JSON with "query"'),
        ("search", {"query": "x" * 1_000_001}, 413, "The question is too long"),
        ("neighbours", {"row": 39}, 400, "There is no row 39; rows are numbered from 0 to 38"),
        ("neighbours", {"row": -1}, 400, "There is no row -1"),
        ("neighbours", {"row": True}, 400, 'Expected JSON with "row"'),
    ):
        answer = ask(live, path, body)
        assert (answer.status_code, reason in answer.json()["message"]) == (status, True), answer.text
    assert requests.post(live.url + "search", data=b'{"query": ', timeout=60).status_code == 400
    assert requests.post(live.url + "search", data=b"[" * 100_000, timeout=60).status_code == 400
    assert requests.post(live.url + "search", data=b"\xff\xfe", timeout=60).status_code == 400
    assert requests.post(live.url + "search", data=b'{"query": "half \\ud800"}', timeout=60).status_code == 200
    # Another site that leads here by its name, and a page of another site.
    assert requests.get(live.url, headers={"Host": "evil.example"}, timeout=60).status_code == 400
    assert ask(live, "search", {"query": "a"}, Host="evil.example:80").status_code == 400
    assert ask(live, "search", {"query": "a"}, Origin="http://evil.example").status_code == 403
    assert ask(live, "search", {"query": "a"}, Origin=live.url[:-1]).status_code == 200
    port = int(live.url.split(":")[2].strip("/"))
    for path in (
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/manifest.json",
        "//etc/passwd",
        "/search",
        "/docs",
    ):
        assert b"root:" not in (answer := raw(port, path)) and re.match(rb"HTTP/1.1 40[45]", answer), answer[:200]
    headers = requests.get(live.url, timeout=60).headers
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'" and "server" not in headers


def raw(port: int, path: str) -> bytes:
    """The answer to a path as it is, which a client would have tidied."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        with contextlib.suppress(OSError):
            while piece := connection.recv(65536):
                answer += piece
    return answer


def words_of(tab, selector):
    return tab.ask(f"[...document.querySelectorAll({selector!r})].map((one) => one.textContent)")


def focused(tab):
    return tab.ask("document.activeElement.id || document.activeElement.className || document.activeElement.tagName")


def check_alone(tab, url):
    """Nothing but this machine was asked, and no script has failed."""
    asked = {one["request"]["url"] for one in tab.events("Network.requestWillBeSent")}
    assert url in asked and all(one.startswith((url, "data:", "about:")) for one in asked), asked
    assert tab.events("Runtime.exceptionThrown") == []
    assert [
        one for one in tab.events("Log.entryAdded") if one["entry"]["level"] == "error" and "400" not in str(one)
    ] == []


@pytest.mark.slow
def test_the_page_is_used_by_keyboard_alone(live, tab):
    tab.open(live.url)
    assert tab.ask("document.title") == "Map of 39 texts"
    tab.press("Tab")
    assert focused(tab) == "query"
    tab.press("Enter")
    tab.wait("document.querySelector('#status').textContent.includes('The question is empty')")
    tab.type("a big dog")
    tab.press("Enter")
    tab.wait("document.querySelector('#status').textContent === '4 texts found.'")
    expected = ask(live, "search", {"query": "a big dog"}).json()["hits"]
    assert words_of(tab, "#hits .text") == [hit["text"] for hit in expected]
    # The list is one stop of Tab, and the arrows go through it.
    for _ in range(20):
        tab.press("Tab")
        if tab.ask("document.activeElement.closest('#hits') !== null"):
            break
    tab.press("ArrowDown", "End", "ArrowUp")
    assert tab.ask("document.activeElement.querySelector('.rank').textContent") == "3"
    assert tab.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("Enter")
    tab.wait("document.querySelectorAll('#near button').length === 4")
    assert words_of(tab, "#chosen-text") == [expected[2]["text"]]
    near = ask(live, "neighbours", {"row": expected[2]["row"]}).json()["hits"]
    assert words_of(tab, "#near .text") == [hit["text"] for hit in near]
    tab.press("Escape")
    assert tab.ask("document.querySelector('#chosen').hidden && document.activeElement.closest('#hits') !== null")

    tab.ask("document.querySelector('#map').focus()")
    tab.press("ArrowRight", "ArrowRight")
    first = tab.ask("document.querySelector('#status').textContent")
    tab.press("+", "ArrowLeft", "Enter")
    tab.wait("document.querySelectorAll('#near button').length === 4")
    assert first and focused(tab) == "map"
    tab.press("0", "Escape")
    check_alone(tab, live.url)


@pytest.mark.slow
def test_texts_of_the_corpus_are_shown_as_texts(live, tab):
    tab.open(live.url)
    tab.ask(f"document.querySelector('#query').value = {json.dumps(SCRIPT)}")
    tab.ask("document.querySelector('#ask').click()")
    tab.wait("document.querySelector('#status').textContent.includes('only its beginning was searched with')")
    place = [text[:9] for text in words_of(tab, "#hits .text")].index("</script>")
    assert tab.ask("document.querySelectorAll('#hits img, #hits script').length") == 0
    assert tab.ask("document.title") == "Map of 39 texts"
    assert "<b>bold</b>" in words_of(tab, "#legend button")
    assert tab.ask("document.querySelectorAll('main b, aside b, img').length") == 0
    # The text is higher than its room.
    tab.ask(f"document.querySelectorAll('#hits button')[{place}].click()")
    tab.wait("document.querySelectorAll('#near button').length === 4")
    assert tab.ask("document.querySelector('#chosen-text').textContent.length") == 20_001
    assert tab.ask("document.querySelector('#chosen-text').clientHeight") < 300
    check_alone(tab, live.url)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone(live, tab, dark, tmp_path):
    from PIL import Image

    tab.open(live.url, PHONE, dark=dark)
    assert tab.ask("document.documentElement.scrollWidth") == 390
    small = "[...document.querySelectorAll('button, input, select')].filter((one) => one.offsetHeight && one.offsetHeight < 40).length"
    assert tab.ask(small) == 0
    before = Image.open(tab.picture(tmp_path / "before.png")).convert("RGB")
    assert (before.getpixel((5, 5))[0] < 60) is dark and len(before.reduce(4).getcolors(1_000_000)) > 30
    box = tab.ask(
        "(({x, y, width, height}) => [x + width / 2, y + height / 2])(document.querySelector('#map').getBoundingClientRect())"
    )
    tab.pinch(*box, 3)
    time.sleep(0.2)
    after = Image.open(tab.picture(tmp_path / "after.png")).convert("RGB")
    assert before.tobytes() != after.tobytes()
    tab.ask("document.querySelector('#all').click()")
    # A finger on a point: the canvas is searched for one.
    for x, y in ((x, y) for y in range(200, 560, 30) for x in range(40, 320, 30)):
        tab.tap(x, y)
        if tab.ask("!document.querySelector('#chosen').hidden"):
            break
    tab.wait("document.querySelectorAll('#near button').length === 4")
    check_alone(tab, live.url)


@pytest.mark.slow
def test_the_copy_without_a_server_works_from_a_file_and_in_a_sandbox(live, tab, tmp_path):
    """As mlflow's page shows it: in a frame that may run scripts, and nothing else."""
    from PIL import Image

    folder = Path(live.env["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent
    (copy,) = folder.glob("mlruns/*/*/artifacts/map.html")
    tab.open(copy.as_uri())
    for words, text in (
        ("RED car", "a red car"),
        ("الطبخ", ARABIC),
        ("family", FAMILY),
        ("<script>", f"{SCRIPT[:200]}..."),
    ):
        tab.ask("document.querySelector('#query').value = ''")
        tab.ask("document.querySelector('#query').focus()")
        tab.type(words)
        assert words_of(tab, "#hits .text") == [text]
    assert tab.ask("document.querySelector('#status').textContent") == "1 text found."
    assert tab.ask("document.title") == "Map of 39 texts"
    tab.ask("document.querySelector('#hits button').click()")
    assert tab.ask("document.querySelectorAll('#near button').length") == 5
    assert words_of(tab, "#chosen-columns dd") == ["<b>bold</b>", "2000"]
    framed = tmp_path / "frame.html"
    framed.write_text(
        f'<iframe sandbox="allow-scripts" style="width:900px;height:600px" srcdoc="{html_of(copy)}"></iframe>'
    )
    tab.open(framed.as_uri(), DESKTOP)
    time.sleep(0.5)
    picture = Image.open(tab.picture(tmp_path / "frame.png")).convert("RGB")
    assert len(picture.reduce(2).getcolors(1_000_000)) > 100
    assert tab.events("Runtime.exceptionThrown") == []


def html_of(path: Path) -> str:
    return html.escape(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_ctrl_c_ends_the_page_and_leaves_a_finished_run(live):
    import mlflow

    live.process.send_signal(signal.SIGINT)
    out, err = live.process.communicate(30)
    assert live.process.returncode == 0 and "Traceback" not in err, err
    mlflow.set_tracking_uri(live.env["MLFLOW_TRACKING_URI"])
    assert mlflow.get_run(last_json(out)["run_id"]).info.status == "FINISHED"
