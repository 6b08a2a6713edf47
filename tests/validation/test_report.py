"""The page of a validation: self-contained, complete, and drawn by a real browser."""

import math
import re

import numpy as np
import pytest
from helpers.browser import BROWSER, browsing

from steps.common.quality import scoring
from steps.common.quality.comparison import Comparison, Result
from steps.common.quality.pairs import GradedPairs, Paraphrases
from steps.common.quality.retrieval import Retrieval
from steps.common.quality.scoring import Difference
from steps.common.quality.spec import Bootstrap
from steps.common.quality.trials import Trial
from steps.common.validation import report
from steps.common.validation.checks import Check
from steps.common.validation.compatibility import Compatibility, Verdict
from steps.common.validation.decision import decide
from steps.common.validation.findings import Findings
from steps.common.validation.identity import FactChange

SENTENCES = [f"sentence {i} with <markup> & more" for i in range(6)]
TOPICS = [f"topic {i % 12}" for i in range(60)]
COMPARED = (
    "worse than the champion: -5.00 points over all suites (-9.00 to -1.00), margin 0.5; more than the margin is "
    "lost on sts pairs (-5.00); "
    "not shown to be as good as the baseline: -0.20 points (-0.90 to +0.60), margin 0.5; about 900 more pairs would decide"
)


def scored(suite, rng):
    vectors = scoring.embed(suite, lambda role: lambda texts: rng.normal(size=(len(texts), 8)).astype(np.float32))
    return scoring.score(suite, vectors, Bootstrap(100, 0.95, 0))


@pytest.fixture
def findings(tmp_path) -> Findings:
    """One of everything a page can show."""
    rng = np.random.default_rng(0)
    path = tmp_path / "suite.csv"
    path.write_text("x")
    texts = [f"text {i}" + " more" * (i % 20) for i in range(40)]
    sts = GradedPairs("sts pairs", path, texts, texts[::-1], rng.normal(size=40))
    same = Paraphrases("same", path, texts, texts[::-1], rng.integers(0, 2, 40).astype(float))
    search = Retrieval(
        "search",
        path,
        path,
        texts[:5],
        [frozenset({f"d{i}"}) for i in range(5)],
        {f"d{i}": f"t {i}" for i in range(30)},
    )
    equal = GradedPairs("equal", path, texts, texts[::-1], rng.normal(size=40))
    undefined = scoring.score(
        equal, scoring.embed(equal, lambda role: lambda texts: np.ones((len(texts), 2), np.float32))
    )
    return Findings(
        checks=[Check("quality/a", 1.0, ">= 0", True), Check("weights/not_finite", "2 <tensors>", "= 0", False)],
        scores=[scored(sts, rng), scored(same, rng), scored(search, rng), undefined],
        thresholds={"sts pairs": 45.0, "same": 50.0, "search": 50.0, "equal": 1.0},
        references={"sts pairs": 60.0},
        comparisons={
            "champion": Comparison(
                Result.WORSE,
                Difference(-5.0, -9.0, -1.0),
                0.5,
                None,
                {"sts pairs": Difference(-5.0, -9.0, -1.0), "equal": Difference(math.nan, math.nan, math.nan)},
            ),
            "baseline": Comparison(Result.UNDECIDED, Difference(-0.2, -0.9, 0.6), 0.5, 900, {"same": Difference(-0.2, -0.9, 0.6)}),
        },
        fact_changes=[
            FactChange("max_seq_length", "16", "256", against) for against in ("champion", "baseline")
        ] + [FactChange("tokenizer_sha256", "a" * 64, "b" * 64, "champion")],
        compatibility=Compatibility(
            against="champion", rows=60, cosine_median=-0.007, cosine_p5=-0.1, overlap_within=1.0, overlap_across=0.04,
            quantiles=[], rows_per_second=200.0, reindex_rows=1_000_000, reindex_hours=1.4, bridge_recall=0.97,
            verdict=Verdict.REINDEX_REQUIRED,
        ),
        trials=[
            Trial("torch/f32", True, "+0.00 points", 50.0, 0.0, 0.0, 0.0, {"sts pairs": 50.0}, 1.0, 100.0, 5.0, 9.0),
            Trial("openvino/int8", False, "-3.00 points", 47.0, -3.0, -4.5, -1.5, {"sts pairs": 47.0}, 0.9, 400.0, 2.0, 3.0, "ab"),
            Trial("torch/fp16", False, "fp16 is for a GPU"),
        ],
        latency=rng.gamma(3, 2, 30),
        sentences=rng.normal(size=(6, 8)),
        corpus=rng.normal(size=(60, 8)),
    )  # fmt: skip


def render(findings: Findings) -> str:
    model = {"hub_id": "org/model", "name": "m"}
    content = report.as_dict(
        findings,
        {"champion": {"name": "old"}},
        model=model,
        lineage={"validate run": "abc", "commit": "def"},
    )
    return report.as_html(content, report.figures(findings, SENTENCES, ([], TOPICS)))


@pytest.fixture
def page(findings) -> str:
    return render(findings)


def test_the_page_asks_nobody_for_anything(page):
    assert not re.search(r"""(?:src|href|action)\s*=\s*["'](?!#|data:)""", page)
    assert not re.search(r"url\((?!#|['\"]?data:)", page)
    assert "<script" not in page and "@import" not in page and "<link" not in page


def test_the_verdict_comes_first_with_what_failed_and_why(page):
    body = page[page.index("<body>") :]
    places = [
        body.index(text)
        for text in (
            "Validation <span",
            "max seq length is",
            "May it replace the champion?",
            "What does a change cost?",
            "Which backend will encode take?",
            "weights/not_finite",
            "<h2>Suites",
            "<h2>The champion's vectors beside these",
            "<h2>Checks",
            "The other 1 passed",
            "<h2>Pairs it disagrees with most",
            "<h2>Queries it answers worst",
            "<h2>Score by length of text",
            "<h2>Figures",
            "<h2>Backends",
            "<h2>Where it comes from",
        )
    ]
    assert places == sorted(places)
    assert "2 &lt;tensors&gt;" in body and "<tensors>" not in body
    assert "the champion and baseline has" in body and body.count("max seq length is") == 1
    assert "tokenizer: differs from the champion" in body and "a" * 64 not in body
    assert "undefined: every cosine is 1" in body


def test_the_first_lines_decide(findings):
    """With what it would cost, and how sure that is."""
    content = report.as_dict(findings, {}, model={"hub_id": "org/model", "name": "m"}, lineage={})
    assert content["decision"] == {
        "may_replace": False,
        "comparison": "worse",
        "compatibility": "reindex_required",
        "backend": None,
        "reindex_hours": 1.4,
        "why": f"1 of 2 checks failed; {COMPARED}",
    }
    findings.checks = findings.checks[:1]
    decided = decide(findings)
    assert (decided.may_replace, decided.backend) == (False, "torch/f32")
    assert decided.why == COMPARED
    del findings.comparisons["champion"]
    assert decide(findings).may_replace is None
    findings.comparisons["champion"] = findings.comparisons["baseline"]
    assert decide(findings).why.startswith("not shown to be as good as the baseline and the champion: -0.20 points")
    findings.comparisons = {}
    assert decide(findings).why == "there is no champion to compare with"


def test_a_threshold_inside_the_interval_is_passed_within_noise(findings):
    (first, *_) = findings.scores
    assert first.low < first.value < first.high
    for threshold, within in ((first.low - 1, False), ((first.low + first.value) / 2, True)):
        findings.thresholds = {first.suite.name: threshold}
        suites = report.as_dict(findings, {}, model={}, lineage={})["suites"]
        assert suites[0]["within_noise"] is within


@pytest.mark.parametrize(
    "share, remark",
    [(0.5, "passed; the interval reaches below"), (1.5, "missed; the interval reaches above"), (-1, None)],
)
def test_a_threshold_inside_the_interval_is_named_beside_it(findings, share, remark):
    first = findings.scores[0]
    # low at 0, the score at 1, high at 2.
    threshold = np.interp(share, [0, 1, 2], [first.low, first.value, first.high]) if remark else first.low - 1
    findings.thresholds = {first.suite.name: threshold}
    page = render(findings)
    assert re.findall("(?:passed|missed); the interval[a-z ]*[0-9.-]+", page) == (
        [f"{remark} {threshold:g}"] if remark else []
    )


def test_a_column_without_a_value_is_left_out_and_a_latency_has_its_unit(findings):
    page = render(findings)
    assert ">published</th>" in page and 'data-name="p50">5.0 ms</td>' in page
    findings.references = {}
    assert "published" not in render(findings)


def test_every_figure_is_on_the_page_and_no_text_is_nan(page):
    for name in (
        "suites",
        "agreement-sts-pairs",
        "agreement-same",
        "agreement-search",
        "sentences",
        "corpus",
        "backends",
        "latency",
    ):
        assert f'<figure id="{name}">' in page
    assert page.count("<svg") == 8
    assert not re.search(r">\s*(nan|inf|None)\s*<", page)
    assert all(topic in page for topic in TOPICS)


def test_figures_take_their_ink_from_the_page_and_are_the_same_every_time(findings):
    figures, again = (report.figures(findings, SENTENCES, ([], TOPICS)) for _ in range(2))
    assert [figure.on_page() for figure in figures] == [figure.on_page() for figure in again]
    assert all("var(--ink)" in figure.on_page() and "#010203" not in figure.on_page() for figure in figures)
    # A file of the run has a size and colours of its own.
    for drawn in (figure.on_paper() for figure in figures):
        assert re.match(r'<svg [^>]*width="[\d.]+" height="[\d.]+" style="background:#fff"', drawn)
        assert "var(" not in drawn and "#010203" not in drawn and "#1b1f24" in drawn


def test_a_model_that_answers_nothing_still_has_a_page():
    nothing = Findings(checks=[Check("predict/runs", "IndexError", "no error", False)])
    content = report.as_dict(nothing, {}, model={"hub_id": "", "name": "m"}, lineage={})
    page = report.as_html(content, report.figures(nothing, SENTENCES, ([], TOPICS)))
    assert "predict/runs" in page and "No suite could be scored." in page


def test_the_plane_of_most_variance_is_found():
    from steps.common.validation.figures import principal_plane

    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50, 2)) * [3, 1]
    points, share = principal_plane(plane @ np.linalg.qr(rng.normal(size=(8, 2)))[0].T + 7)
    assert share.sum() == pytest.approx(1)
    distances = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (points, plane)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert principal_plane(np.ones((4, 3)))[0].tolist() == [[0, 0]] * 4


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here (apt-get install chromium)")
@pytest.mark.parametrize("width", [390, 820, 1280])
def test_a_browser_draws_the_page_and_nothing_is_wider_than_the_screen(page, tmp_path, width):
    from PIL import Image

    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    with browsing(tmp_path) as tab:
        tab.open((tmp_path / "report.html").as_uri(), (width, 3000))
        assert tab.ask("document.documentElement.scrollWidth") == width
        assert tab.ask("document.querySelectorAll('svg').length") == 8
        assert tab.ask("document.documentElement.scrollHeight") > 1000
        picture = tab.picture(tmp_path / "page.png")
    assert len(Image.open(picture).convert("RGB").reduce(4).getcolors(1_000_000)) > 50
