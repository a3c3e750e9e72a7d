"""open_clip's text tower: the same numbers, names and token ids as its own, from its files and in its models."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from text_folders import ODD, small_open_clip, texts
from torch.testing import assert_close

import students
from students.bpe_tokenizer import BytePairTokenizer

OWN = students.text_tower_class("open_clip")
SMALL = {"context": 20, "width": 64, "heads": 1, "layers": 2}


def folder_of(model: Any, path: Path, quick_gelu: bool = False, safetensors: bool = True, **text: Any) -> Path:
    """A folder that open_clip reads as local-dir:FOLDER."""
    path.mkdir()
    text = {"context_length": 20, "width": 64, "heads": 1, "layers": 2} | text
    config: dict[str, Any] = {"embed_dim": 24, "text_cfg": text, "vision_cfg": {}}
    config |= {"quick_gelu": True} if quick_gelu else {}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    if safetensors:
        save_file(dict(model.state_dict()), path / "open_clip_model.safetensors")
    else:
        torch.save(model.state_dict(), path / "open_clip_pytorch_model.bin")
    return path


def started(path: Path, embedding: int = 24) -> Any:
    """A tower with the options and the weights of a file or folder."""
    tower = OWN(OWN.Options(**OWN.options_of(path)), OWN.tokenizer_of(path, 20).vocab, embedding)
    tower.start_from(OWN.read(path))
    return tower.eval()


def computed(tower: torch.nn.Module, ids: torch.Tensor) -> Any:
    with torch.no_grad():
        return tower(ids)


@pytest.mark.parametrize("quick_gelu, text", [(False, {}), (True, {}), (False, {"mlp_ratio": 2.0, "heads": 4})])
@pytest.mark.parametrize("safetensors", [True, False])
def test_a_tower_computes_what_open_clip_computes(
    tmp_path: Path, quick_gelu: bool, text: dict[str, Any], safetensors: bool
) -> None:
    model = small_open_clip(quick_gelu=quick_gelu, **text).eval()
    ids = BytePairTokenizer.packaged(20).encode(ODD)
    tower = started(folder_of(model, tmp_path / "a", quick_gelu, safetensors, **text))
    assert_close(computed(tower, ids)["embedding"], computed(model.text, ids), atol=1e-5, rtol=1e-5)
    other = started(tmp_path / "a", embedding=16)  # of another width: a projection of its own
    assert other.text_projection.out_features == 16
    assert_close(other.ln_final.weight, model.text.ln_final.weight)


@pytest.mark.parametrize("text", [{"no_causal_mask": True}, {"pool_type": "first"}, {"pool_type": "last"}])
def test_the_same_with_other_poolings_and_without_the_causal_mask(tmp_path: Path, text: dict[str, Any]) -> None:
    model, ids = small_open_clip(**text).eval(), BytePairTokenizer.packaged(20).encode(ODD)
    tower = started(folder_of(model, tmp_path / "a", **text))
    assert_close(computed(tower, ids)["embedding"], computed(model.text, ids), atol=1e-5, rtol=1e-5)
    shorter = ids[:, :10]
    plain = {"no_causal_mask": False, "pool_type": "argmax"} | text
    assert tower.pool == plain["pool_type"] and (tower.attn_mask is None) == plain["no_causal_mask"]
    assert computed(tower, shorter)["embedding"].isfinite().all()


def test_files_of_weights_alone_are_read(tmp_path: Path) -> None:
    """As the trainer saves them, as a plain CLIP has them, and as safetensors; heads are 64 wide."""
    model, ids = small_open_clip(width=128, heads=2).eval(), BytePairTokenizer.packaged(20).encode(ODD)
    state = model.state_dict()
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "trainer.pt")
    flat = {k.removeprefix("text."): v for k, v in state.items() if k.startswith("text.")}
    save_file(flat | {"visual.proj": torch.zeros(2)}, tmp_path / "flat.safetensors")
    for name in ("trainer.pt", "flat.safetensors"):
        tower = started(tmp_path / name)
        assert_close(computed(tower, ids)["embedding"], computed(model.text, ids), atol=1e-5, rtol=1e-5)


def test_open_clip_builds_the_same_tower_from_the_configuration() -> None:
    ids = BytePairTokenizer.packaged(20).encode(ODD)
    for options in ({}, {"causal": False, "pool": "last"}, {"pool": "first", "mlp": 3.0}):
        torch.manual_seed(0)
        chosen = OWN.Options(**SMALL, **options)
        tower = OWN(chosen, 49408, 24).eval()
        model = small_open_clip(**OWN.open_clip_config(chosen, 49408)).eval()
        model.text.load_state_dict(tower.state_dict(), strict=True)
        assert_close(computed(model.text, ids), computed(tower, ids)["embedding"], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="quick_gelu"):
        OWN.open_clip_config(OWN.Options(quick_gelu=True), 49408)


def test_without_options_it_is_the_tower_of_vit_b_32() -> None:
    with torch.device("meta"):
        tower = OWN(OWN.Options(**OWN.options_of(None)), 49408, 512)
        whole = open_clip.CLIP(512, open_clip.CLIPVisionCfg(layers=1), open_clip.CLIPTextCfg())
    names = {name: value.shape for name, value in whole.state_dict().items() if name in tower.state_dict()}
    assert len(names) == len(tower.state_dict()) - 2  # the projection is a matrix there
    assert all(tower.state_dict()[name].shape == shape for name, shape in names.items())


@pytest.mark.parametrize("context", [77, 7])
def test_token_ids_are_those_of_open_clip(context: int, tmp_path: Path) -> None:
    ours, own, read = (
        BytePairTokenizer.packaged(context),
        open_clip.SimpleTokenizer(context_length=context),
        texts(400),
    )
    assert torch.equal(ours.encode(read), own(read))
    (tmp_path / ours.FILE).write_bytes(ours.model)
    assert torch.equal(BytePairTokenizer.load(tmp_path / ours.FILE, context).encode(read), own(read))
    assert [row[1:-1] for row in ours.token_ids(read)] == [own.encode(text) for text in read]
    assert ours.vocab == 49408 and ours.unknown is None and ours.encode([]).shape == (0, context)
    assert torch.equal(ours.encode(["a \ud800 cat"]), own(["a ? cat"]))
    assert torch.equal(pickle.loads(pickle.dumps(ours)).encode(read), own(read))  # for loader processes


def test_what_does_not_fit_is_a_sentence(tmp_path: Path) -> None:
    model = small_open_clip()
    for number, (text, words) in enumerate(
        (
            ({"embed_cls": True}, "a text tower with embed_cls = True"),
            ({"hf_model_name": "roberta-base"}, "hf_model_name = 'roberta-base'"),
            ({"tokenizer_kwargs": {"clean": "canonicalize"}}, "tokenizer_kwargs"),
        )
    ):
        with pytest.raises(ValueError, match=words):
            OWN.options_of(folder_of(model, tmp_path / str(number), **text))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="open_clip_config.json is missing or damaged"):
        OWN.options_of(tmp_path / "empty")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt has no text tower of open_clip"):
        OWN.options_of(tmp_path / "other.pt")
    torch.save(model, tmp_path / "pickle.pt")
    with pytest.raises(ValueError, match="pickle.pt cannot be read: .*a file of tensors alone"):
        OWN.read(tmp_path / "pickle.pt")
    small = folder_of(small_open_clip(vocab_size=600), tmp_path / "small")
    with pytest.raises(ValueError, match="has 600 tokens and open_clip's own tokenizer 49408"):
        OWN.tokenizer_of(small, 20)
    with pytest.raises(ValueError, match="A width of 64 is no multiple of 5 heads"):
        OWN(OWN.Options(**SMALL | {"heads": 5}), 600, 24)
    with pytest.raises(ValueError, match="The tokenizer's file is damaged"):
        BytePairTokenizer(b"no gzip", 20)
