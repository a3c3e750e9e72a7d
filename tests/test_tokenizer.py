"""The tokenizer that is trained from captions: nothing of them is unknown, long ones count, and a table says so."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from conftest import SCRATCH, distill, encoded, picture, write_tar

from distill.data.captions import Caption
from distill.training.tokenizer_training import report
from students.sentencepiece_tokenizer import SentencePieceTokenizer

CHINESE = ["红色的圆圈", "蓝色的正方形", "绿色三角形在桌上", "一只戴帽子的猫"]
ENGLISH = [
    f"a {colour} {shape} number {i}" for i in range(60) for colour in ("red", "teal") for shape in ("circle", "cross")
]


def train(texts: list[str], vocab: int, context: int = 16) -> SentencePieceTokenizer:
    return SentencePieceTokenizer.train(texts, vocab, context)


def unknown(tokenizer: SentencePieceTokenizer, texts: list[str]) -> int:
    return sum(tokenizer.unknown in ids for ids in tokenizer.token_ids(texts))


@pytest.mark.parametrize("vocab", [300, 600, 1024, 4000])
def test_no_caption_of_the_training_set_holds_unknown_characters(vocab: int) -> None:
    texts = ENGLISH * 50 + CHINESE
    tokenizer = train(texts, vocab)
    assert unknown(tokenizer, texts) == 0 and tokenizer.vocab <= vocab
    rows = {tuple(row) for row in tokenizer.encode(CHINESE).tolist()}
    assert len(rows) == len(CHINESE)


def test_characters_beyond_the_vocabulary_are_written_in_bytes() -> None:
    rng = random.Random(0)
    texts = ["".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(6)) for _ in range(2000)] + ENGLISH
    for vocab in (400, 2000):
        tokenizer = train(texts, vocab, context=64)
        assert unknown(tokenizer, texts) == 0
        decoded = tokenizer._processor.Decode(tokenizer.token_ids(texts))
        assert decoded == texts


def test_characters_that_no_caption_had_are_written_in_bytes_where_there_is_room() -> None:
    assert unknown(train(ENGLISH + CHINESE, 1024), ["ein Bär", "🦊", "кошка"]) == 0


def test_repeated_words_are_one_token_each() -> None:
    """A unigram model's first pieces do not contain a word that is always followed by the same one."""
    tokenizer = train([f"a red circle number {i}; take {i * 7}" for i in range(400)], 2000)
    assert max(map(len, tokenizer.token_ids(["a red circle number 17; take 119"]))) <= 8


def test_a_vocabulary_that_is_too_small_says_how_large_it_must_be() -> None:
    many = ["".join(chr(0x4E00 + 40 * i + k) for k in range(40)) for i in range(10)]
    for texts, least in ((CHINESE, 24), (many, 266)):
        with pytest.raises(ValueError, match=rf"Set student.tokenizer.vocab to at least {least}\."):
            train(texts, 20)
        assert unknown(train(texts, least), texts) == 0


def test_long_captions_are_cut_and_not_left_out() -> None:
    """SentencePiece itself leaves texts of more than 4,192 bytes out of its training."""
    long = [f"{word} " * 1000 for word in ("nightingale", "hippopotamus", "Krähennest", "蓝色的正方形")]
    tokenizer = train([*long, "a b c d e"], 400)
    assert unknown(tokenizer, long) == 0
    assert [len(ids) for ids in tokenizer.token_ids(["nightingale", "hippopotamus"])] == [1, 1]
    assert unknown(train(long, 400), long) == 0


@pytest.mark.parametrize("odd", ["\0", "\t", "\u2585", "\ud800"])
def test_captions_with_characters_that_sentencepiece_reserves_are_not_left_out(odd: str) -> None:
    clean = odd.encode("utf-8", "replace").decode()
    tokenizer = train([f"wonderful{clean} hippopotamus"] * 3 + ["a b c"], 300)
    assert len(tokenizer.token_ids(["hippopotamus"])[0]) == 1


def test_the_report_counts_by_hand() -> None:
    tokenizer = train(ENGLISH, 300, context=4)
    captions = [
        Caption("a red circle number 1"),
        Caption("A RED circle number 1"),
        Caption("a red"),
        Caption("红", "zh"),
    ]
    found = report(tokenizer, captions)
    ids = tokenizer.token_ids([c.text for c in captions])
    assert found["languages"]["zh"]["unknown"] == 1 and found["languages"][""]["unknown"] == 0
    assert found["languages"][""]["captions"] == 3
    assert found["languages"][""]["tokens"] == pytest.approx(sum(map(len, ids[:3])) / 3)
    assert found["languages"][""]["cut"] == pytest.approx(2 / 3)
    assert found["become_equal"] == 1  # case is folded


def test_training_prints_the_table_by_language_and_keeps_it(tmp_path: Path, recipe: Path) -> None:
    members = []
    for i in range(24):
        captions = {"en": f"a red circle number {i}", "zh": CHINESE[i % 4] + str(i)}
        members += [(f"{i:03d}.png", encoded(picture("circle", "red", i)))]
        members += [(f"{i:03d}.json", json.dumps({"captions": captions}).encode())]
    write_tar(tmp_path / "a.tar", members)
    words = [
        "--set",
        f"data.train={tmp_path / 'a.tar'}",
        "--set",
        "train.steps=1",
        "--set",
        "student.tokenizer.vocab=5000",
    ]
    log = distill("train", recipe, *SCRATCH, *words, "--out", tmp_path / "run").stderr
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    found = about["tokenizer"]
    assert {k: (v["captions"], v["unknown"]) for k, v in found["languages"].items()} == {"en": (24, 0), "zh": (24, 0)}
    assert "  zh  " in log and f"The tokenizer has {about['vocab']:,} pieces instead of 5,000" in log
    # A tokenizer of a file is looked at as well.
    file = ["--set", f"student.tokenizer.file={tmp_path / 'run' / 'tokenizer.model'}"]
    again = distill("train", recipe, *SCRATCH, *words, *file, "--out", tmp_path / "again").stderr
    assert "  zh  " in again and "student.tokenizer.vocab has no effect" in again
    assert json.loads((tmp_path / "again" / "run.json").read_text())["tokenizer"] == found
