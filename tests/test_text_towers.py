"""Text towers of transformers: the same numbers and token ids as its own, and what does not fit is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import random_state
from pydantic import ValidationError
from text_folders import LONGEST, ODD, texts, write_bert, write_clip, write_siglip
from torch.testing import assert_close

import students
import teachers
from students.hugging_face_tokenizer import HuggingFaceTokenizer
from students.texts.transformer import SIZES

HF = students.text_tower_class("hugging_face")
MINILM = teachers.text_teacher_folder(teachers.card("packaged/all_minilm_l6_v2"))
KINDS = ("bert", "clip", "whole_clip", "siglip", "minilm")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that transformers wrote, by kind, and that of the packaged text teacher. Read only."""
    home = tmp_path_factory.mktemp("folders")
    return {
        "bert": write_bert(home / "bert"),
        "clip": write_clip(home / "clip"),
        "whole_clip": write_clip(home / "whole_clip", whole=True),
        "siglip": write_siglip(home / "siglip"),
        "minilm": MINILM,
    }


def tower_of(folder: Path, embedding: int = 24, weights: bool = True, **options: Any) -> Any:
    """A tower like a folder, in evaluation mode, with its weights."""
    torch.manual_seed(0)
    found = HF.options_of(folder) | options
    tower = HF(HF.Options(**found), HF.tokenizer_of(folder, found["context"]).vocab, embedding)
    if weights:
        tower.start_from(HF.read(folder))
    return tower.eval()


def references(kind: str, folder: Path, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What transformers itself computes: the last tokens, and the embedding where the model has a projection."""
    with torch.no_grad():
        if kind in ("bert", "minilm"):
            model = transformers.BertModel.from_pretrained(folder).eval()
            return model(ids, attention_mask=(ids != model.config.pad_token_id).long()).last_hidden_state, None
        if kind == "siglip":
            out = transformers.SiglipTextModel.from_pretrained(folder).eval()(ids)
            return out.last_hidden_state, out.pooler_output
        out = transformers.CLIPTextModelWithProjection.from_pretrained(folder, projection_dim=24).eval()(ids)
        return out.last_hidden_state, out.text_embeds


@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_computes_what_transformers_computes(folders: dict[str, Path], kind: str) -> None:
    folder, context = folders[kind], 64 if kind == "minilm" else LONGEST
    tower, ids = tower_of(folder), HF.tokenizer_of(folder, context).encode(ODD)
    with torch.no_grad():
        found = tower(ids, ("embedding", "tokens"))
    tokens, embedding = references(kind, folder, ids)
    keep = ids != 0 if kind in ("bert", "minilm") else torch.ones_like(ids, dtype=torch.bool)
    assert_close(found["tokens"][keep], tokens[keep], atol=1e-5, rtol=1e-5)
    assert torch.pdist(found["embedding"]).median() > 1e-3
    if embedding is not None:
        assert_close(found["embedding"], embedding, atol=1e-5, rtol=1e-5)
        assert tower_of(folder, embedding=16).head.weight.shape[0] == 16  # of another width: a projection of our own


def test_the_packaged_encoder_pools_as_sentence_transformers_does() -> None:
    tower, ids = tower_of(MINILM), HF.tokenizer_of(MINILM, 64).encode(ODD)
    assert tower.pool == "mean"
    teacher = teachers.load(teachers.card("packaged/all_minilm_l6_v2"))
    with torch.no_grad():
        assert_close(tower(ids)["embedding"], tower.head(teacher(ids)["embedding"]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind, pool", [("bert", "mean"), ("clip", "mean"), ("siglip", "mean"), ("bert", "cls")])
def test_pooling_by_an_independent_computation(folders: dict[str, Path], kind: str, pool: str) -> None:
    tower, tokenizer = tower_of(folders[kind], pool=pool), HF.tokenizer_of(folders[kind], LONGEST)
    ids = tokenizer.encode(["red", "the cat on a table", "the " * 50])
    with torch.no_grad():
        found = tower(ids, ("embedding", "tokens"))
    for row, text in enumerate(["red", "the cat on a table", "the " * 50]):
        length = min(LONGEST, len(tokenizer.token_ids([text])[0])) if kind != "siglip" else LONGEST
        pooled = found["tokens"][row, :length].mean(0) if pool == "mean" else found["tokens"][row, 0]
        assert_close(found["embedding"][row], tower.head(pooled))


@pytest.mark.parametrize("kind", KINDS)
def test_token_ids_are_those_of_transformers(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    own = transformers.AutoTokenizer.from_pretrained(folders[kind], local_files_only=True)
    # SentencePiece and the package tokenizers divide a letter that is repeated often in different ways of equal score.
    read = [text for text in texts(400) if not (kind == "siglip" and "x" * 20 in text)]
    for context in (LONGEST, 5):
        ours = HuggingFaceTokenizer.of_folder(folders[kind], context)
        theirs = [own(t, padding="max_length", truncation=True, max_length=context).input_ids for t in read]
        assert ours.encode(read).tolist() == theirs
        (tmp_path / ours.FILE).write_bytes(ours.model)
        assert HuggingFaceTokenizer.load(tmp_path / ours.FILE, context).encode(read).tolist() == theirs
    assert ours.token_ids(read) == [own(text).input_ids for text in read]
    assert ours.vocab == len(own) and ours.unknown == (None if "clip" in kind else own.unk_token_id)
    assert ours.encode([]).shape == (0, 5)
    assert torch.equal(pickle.loads(pickle.dumps(ours)).encode(read), ours.encode(read))  # for loader processes


def test_half_of_a_surrogate_pair_is_read_as_a_question_mark(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        tokenizer = HF.tokenizer_of(folder, LONGEST)
        assert tokenizer.encode(["a \ud800 cat"]).tolist() == tokenizer.encode(["a ? cat"]).tolist()


@pytest.mark.parametrize("kind", KINDS[:4])
def test_options_change_the_tower(folders: dict[str, Path], kind: str) -> None:
    tower = tower_of(folders[kind], weights=False, layers=1, width=48, heads=3, mlp=20, context=9)
    config = tower.net.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (1, 48, 3)
    assert config.intermediate_size == 20 and tower.head.in_features == 48
    assert tower.widths() == {"embedding": 24, "tokens": 48}
    tower.load_state_dict(random_state(tower))
    assert tower(HF.tokenizer_of(folders[kind], 9).encode(["red"]))["embedding"].isfinite().all()


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_first_configuration_of_clip_ends_texts_at_the_highest_id(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """As transformers reads eos_token_id = 2, with which OpenAI's CLIP was published."""
    old = write_clip(tmp_path / "old")
    ids = HF.tokenizer_of(old, LONGEST).encode(ODD)
    change(old, "config.json", eos_token_id=2)
    with torch.no_grad():
        assert_close(tower_of(old)(ids)["embedding"], references("clip", old, ids)[1], atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_a_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    for options, words in (
        ({"pool": "eos"}, "A BERT pools by cls or mean, not by eos"),
        ({"context": 21}, "has 20 positions, and student.text.context is 21"),
        ({"heads": 5}, "A width of 32 is no multiple of 5 heads"),
    ):
        with pytest.raises(ValueError, match=words):
            tower_of(folders["bert"], weights=False, **options)
    with pytest.raises(ValueError, match="The tokenizer has 900 tokens and the text tower"):
        HF(HF.Options(**HF.options_of(folders["bert"])), 900, 24)
    with pytest.raises(ValueError, match="of another architecture"):
        tower_of(folders["clip"]).start_from(HF.read(folders["bert"]))
    with pytest.raises(ValueError, match="A context of 2 tokens holds no text"):
        HF.tokenizer_of(folders["bert"], 2)
    with pytest.raises(ValidationError, match="layer"):
        HF.Options(layer=3)
    with pytest.raises(ValueError, match="config.json is missing or damaged"):
        HF.options_of(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match="cannot be built like a 't5'; it can be a bert, clip_text_model"):
        HF.options_of(tmp_path)
    other = write_bert(tmp_path / "other")
    change(other, "config.json", vocab_size=50)
    with pytest.raises(ValueError, match="tokens and the text tower 50"):
        HF.tokenizer_of(other, LONGEST)
    change(other, "config.json", vocab_size=137, pad_token_id=3)
    with pytest.raises(ValueError, match="pads with 0 and the text tower expects 3"):
        HF.tokenizer_of(other, LONGEST)
    (other / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="Only safetensors are read"):
        HF.read(other)


@pytest.mark.parametrize(
    "size, parameters", [("Ti", 5.3e6), ("S", 21.3e6), ("B", 85.1e6), ("L", 302e6), ("g", 1.01e9)]
)
def test_named_sizes_of_the_transformer_are_those_of_vit(size: str, parameters: float) -> None:
    """The blocks of ViT Ti, S, B, L and g have so many parameters (arXiv 2010.11929, Table 1; 2106.04560, Table 2)."""
    kind = students.text_tower_class("transformer")
    with torch.device("meta"):
        tower = kind(kind.Options(size=size), 100, 16)
    assert sum(p.numel() for p in tower.blocks.parameters()) == pytest.approx(parameters, rel=0.01)
    options = kind.Options(size=size, depth=2)
    assert (options.depth, options.dim) == (2, SIZES[size]["dim"])
    assert kind.Options(**options.model_dump()) == options
