"""SigLIP's SentencePiece tokenizer as one of the package ``tokenizers``.

transformers reads it with SentencePiece and Python code: texts are lower-cased, ASCII punctuation is removed, white
space collapses, and the end-of-text token follows, which also pads.
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

WORD = "\u2581"  # with which SentencePiece marks the beginning of a word
UNIGRAM = 1  # model_type in sentencepiece_model.proto
BYTE = 6  # type of a piece there


def from_sentencepiece(tokenizer: Any) -> Any:
    """A ``tokenizers.Tokenizer`` with the token ids of a ``transformers.SiglipTokenizer``.

    Of several ways to divide a text into pieces that are equally probable, such as a letter that is repeated a hundred
    times, the two may take different ones.

    Raises:
        ValueError: if its model is not a unigram model that normalises texts.
    """
    from sentencepiece import sentencepiece_model_pb2 as messages
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    proto: Any = messages.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(Path(tokenizer.vocab_file).read_bytes())
    if proto.trainer_spec.model_type != UNIGRAM:
        raise ValueError("its SentencePiece model is no unigram model.")
    if not proto.normalizer_spec.precompiled_charsmap:
        raise ValueError("its SentencePiece model does not normalise texts, as SigLIP's does.")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    uses_bytes = any(piece.type == BYTE for piece in proto.pieces)
    made = Tokenizer(models.Unigram(pieces, tokenizer.unk_token_id, byte_fallback=uses_bytes))
    punctuation = f"[{re.escape(string.punctuation)}]"
    steps = [
        normalizers.Replace(WORD, " "),
        *([normalizers.Lowercase()] if tokenizer.do_lower_case else []),
        normalizers.Replace(Regex(punctuation), ""),
    ]
    # White space as Python has it, which includes four characters that regular expressions elsewhere do not.
    steps.append(normalizers.Replace(Regex(r"[\s\x1c-\x1f]+"), " "))
    steps.append(normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD, prepend_scheme="always")
    # The text of a special token is that token, as in transformers.
    names = {tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token}
    made.add_special_tokens([AddedToken(name, lstrip=True, rstrip=True, normalized=False) for name in sorted(names)])
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    made.post_processor = processors.TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    return made
