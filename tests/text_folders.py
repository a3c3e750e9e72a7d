"""Folders with random text encoders and small tokenizers, each written by transformers itself; and texts to read."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import open_clip
import sentencepiece
import torch
import transformers
from open_clip.tokenizer import SimpleTokenizer

LONGEST = 20  # positions
SIZES: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "max_position_embeddings": LONGEST,
}
WORDS = "red blue green circle square cat dog table on the a of two große Kreise один круг 红色 圆圈 été naïve".split()
ODD = [
    *("", " ", "   \n\t", "a", "A RED Circle!", "don't stop; it's 3.14 %", "Größe, naïve, crème brûlée", "e\u0301 é"),
    *(
        "红色的圆圈 и круг",
        "日本語のテキスト",
        "مرحبا بالعالم",
        "🦊🚒 emoji 👩‍👩‍👧",
        "x" * 300,
        "the cat " * 200,
        "&amp; &lt;b&gt;",
    ),
    *(
        "tab\tand\nnew line",
        "a\u00a0b\u2003c",
        "\u2581word",
        "ﬁne ½ Ⅳ ①",
        "İstanbul ΣΊΣΥΦΟΣ",
        "a\x1cb\x85c",
        "…—“quotes”",
    ),
    *("UPPER_lower-Case", "100,000 dogs", "\u00a8 \u2017", "zero\u200bwidth", "null\0byte", "! ? .", " a ", "__ a"),
]


def texts(count: int = 300) -> list[str]:
    """Odd texts, and random ones of words, letters and characters of several languages."""
    rng = random.Random(0)
    letters = "abcdefghij KLMNOP .,;!?'\"-_()0123456789 äöüßéñç абвгд 中文字 ひらカタ 한국 🍎🦊"
    made = list(ODD)
    while len(made) < count:
        words = ("".join(rng.choices(letters, k=rng.randrange(1, 9))) for _ in range(rng.randrange(1, 12)))
        made.append(" ".join(word if rng.random() < 0.4 else rng.choice(WORDS) for word in words))
    return made


def write_bert(folder: Path) -> Path:
    """A BERT with a WordPiece tokenizer, without the pooling of sentence-transformers."""
    letters = sorted({c for word in [*WORDS, "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"] for c in word.lower()})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words + [w.lower() for w in WORDS]))}
    transformers.BertTokenizer(vocab=vocab, do_lower_case=True).save_pretrained(folder)
    config = transformers.BertConfig(vocab_size=len(vocab), **SIZES)
    return save(transformers.BertModel(config, add_pooling_layer=True), folder)


def write_clip(folder: Path, whole: bool = False) -> Path:
    """A CLIP, or its text encoder with projection, with a BPE tokenizer of open_clip's first merges."""
    own = SimpleTokenizer()
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)[:300]
    names = list(own.encoder)[:512] + ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {name: i for i, name in enumerate(names)}
    transformers.CLIPTokenizer(vocab=vocab, merges=merges).save_pretrained(folder)
    text = SIZES | {"vocab_size": len(vocab), "bos_token_id": len(vocab) - 2, "eos_token_id": len(vocab) - 1}
    if not whole:
        config = transformers.CLIPTextConfig(projection_dim=24, **text)
        return save(transformers.CLIPTextModelWithProjection(config), folder)
    vision = {k: v for k, v in SIZES.items() if k != "max_position_embeddings"} | {"image_size": 32, "patch_size": 16}
    return save(
        transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)),
        folder,
    )


def write_siglip(folder: Path, normalization: str = "nmt_nfkc") -> Path:
    """SigLIP's text encoder with a SentencePiece tokenizer."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts() + WORDS * 5),
        model_writer=out,
        vocab_size=400,
        hard_vocab_limit=False,
        normalization_rule_name=normalization,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    )
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(out.getvalue())
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"))
    tokenizer.save_pretrained(folder)
    config = transformers.SiglipTextConfig(vocab_size=tokenizer.vocab_size, projection_size=24, **SIZES)
    return save(transformers.SiglipTextModel(config), folder)


def save(model: Any, folder: Path) -> Path:
    """Give a model weights that differ from each other, and save it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = name.endswith("weight") and parameter.ndim == 1  # of a layer norm
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + norm)
    model.save_pretrained(folder)
    return folder


def small_open_clip(quick_gelu: bool = False, **text: Any) -> Any:
    """A CustomTextCLIP of open_clip with a small text tower."""
    torch.manual_seed(0)
    text = {"context_length": 20, "width": 64, "heads": 1, "layers": 2} | text
    vision = {"timm_model_name": "resnet10t", "image_size": 32, "timm_pool": "", "timm_proj": ""}
    return open_clip.CustomTextCLIP(24, vision, text, quick_gelu=quick_gelu)
