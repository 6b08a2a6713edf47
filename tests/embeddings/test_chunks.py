"""Long texts as pieces: every token in one, each short enough, and cut between words where it can be."""

from types import SimpleNamespace

import pytest
from helpers.models import TINY_WORDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.common.embeddings.chunks import Chunker
from steps.common.errors import UserError

# Generated once and the same everywhere, however slow the machine.
STEADY = settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck))
WORDS = st.one_of(
    st.sampled_from(TINY_WORDS), st.text("abcxyz", min_size=1, max_size=90), st.text(max_size=6), st.just("東京都")
)
TEXTS = st.lists(WORDS, max_size=120).map(" ".join)


def tokens(model, text: str, special: bool = False) -> list[int]:
    return model.tokenizer(text, add_special_tokens=special, truncation=False, verbose=False)["input_ids"]


def places(text: str, pieces: list[str]) -> list[tuple[int, int]]:
    """Where each piece stands in its text, the earliest place after the beginning of the one before."""
    found, start = [], 0
    for piece in pieces:
        start = text.index(piece, start)
        found.append((start, start + len(piece)))
        start += 1
    return found


def check(model, text: str, prompt: str, overlap: int) -> list[str]:
    (pieces,) = Chunker(model, prompt, overlap).split([text])
    limit = model.max_seq_length
    if len(tokens(model, prompt + text, True)) <= limit:
        assert pieces == [text]
        return pieces
    assert all(len(tokens(model, prompt + piece, True)) <= limit for piece in pieces)
    spans = places(text, pieces)
    assert spans[0][0] == 0
    for (_, end), (start, _) in zip(spans, spans[1:]):
        # What is between two pieces has no token.
        assert start <= end or tokens(model, text[end:start]) == []
    assert tokens(model, text[spans[-1][1] :]) == []
    return pieces


@STEADY
@given(text=TEXTS, prompt=st.sampled_from(["", "the cat: "]), overlap=st.sampled_from([0, 1, 8, 32]))
def test_no_token_is_left_out_and_no_piece_is_too_long(tiny_model, text, prompt, overlap):
    check(tiny_model, text, prompt, overlap)


def test_windows_are_as_long_as_they_can_be_and_overlap_as_asked(tiny_model):
    words = [TINY_WORDS[i % len(TINY_WORDS)] for i in range(200)]
    (pieces,) = Chunker(tiny_model, None, 10).split([" ".join(words)])
    # 64 tokens less two special ones, and each begins ten before the end of the one before.
    expected = [words[first : first + 62] for first in range(0, 200 - 10, 52)]
    assert [piece.split() for piece in pieces] == expected


def test_without_overlap_the_pieces_are_the_text(tiny_model):
    words = [TINY_WORDS[i % len(TINY_WORDS)] for i in range(200)]
    (pieces,) = Chunker(tiny_model, None, 0).split([" ".join(words)])
    assert " ".join(pieces).split() == words


def test_a_text_that_is_read_whole_is_its_own_piece(tiny_model):
    texts = ["", " ", "the cat", " ".join(["cat"] * 62), "\n the  cat \t"]
    assert Chunker(tiny_model, None, 8).split(texts) == [[text] for text in texts]


def test_one_token_more_than_the_model_reads_makes_two_pieces(tiny_model):
    assert [
        len(pieces) for pieces in Chunker(tiny_model, None, 8).split([" ".join(["cat"] * n) for n in (62, 63)])
    ] == [1, 2]


def test_the_prompt_takes_its_room(tiny_model):
    text = " ".join(["cat"] * 61)
    assert len(Chunker(tiny_model, None, 8).split([text])[0]) == 1
    # 64 tokens less two special ones and the three of the prompt.
    assert Chunker(tiny_model, "the cat: ", 8).split([text]) == [[" ".join(["cat"] * 59), " ".join(["cat"] * 10)]]


def test_a_word_longer_than_the_model_reads_is_cut(tiny_model):
    word = "abcdefghij" * 9
    assert "".join(Chunker(tiny_model, None, 0).split([word])[0]) == word
    check(tiny_model, f"the {word} cat", "", 8)


def test_words_are_not_cut_where_a_piece_can_end_before_them(tiny_model):
    text = " ".join(["cat"] * 60 + ["xyzzy"] * 30)
    for piece in Chunker(tiny_model, None, 8).split([text])[0]:
        assert set(piece.split()) <= {"cat", "xyzzy"}


def test_an_overlap_as_long_as_a_piece_is_refused(tiny_model):
    with pytest.raises(UserError, match="corpus.chunk_overlap is 62; expected less than 62"):
        Chunker(tiny_model, None, 62)


def test_a_model_without_a_fast_tokenizer_is_refused():
    with pytest.raises(UserError, match="long_text=truncate"):
        Chunker(SimpleNamespace(tokenizer=object(), max_seq_length=64), None, 8)


@pytest.mark.slow
def test_the_real_model_leaves_no_token_out(minilm):
    numbered = [f"{i} " for i in range(3000)]
    kanji = [chr(0x4E00 + i) for i in range(1500)]
    for text in (
        "".join(f"Sentence {n}with names such as Köln and numbers like 3.14159. " for n in numbered[:100]),
        "".join(kanji),
        "-".join(kanji),
        "".join(n.strip() for n in numbered),
        "x" * 5000,
        "".join(f"a\u0301🚀{n}" for n in numbered[:700]),
        "\n\n".join(numbered[:700]),
    ):
        check(minilm, text, "", 32)
        check(minilm, text, "query: ", 0)
