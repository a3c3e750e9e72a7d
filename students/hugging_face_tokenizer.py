"""The tokenizers of Hugging Face's text encoders: WordPiece, byte-pair encoding or SentencePiece."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from students.hugging_face_folder import COMMAND
from students.optional import import_library
from students.siglip_tokenizer import from_sentencepiece
from students.tokenizer import Tokenizer

EXAMPLE = """def encode(texts, path, context):
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(context)
    tokenizer.enable_padding(**{**tokenizer.padding, "length": context})
    return np.array([row.ids for row in tokenizer.encode_batch(texts)], np.int64)
"""


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the package ``tokenizers``, from a file that also says how it pads.

    Attributes:
        model: the JSON text of ``tokenizer.json``.
        context: tokens per text, special ones included.
        pad: the id of the token that pads.
    """

    FILE = "tokenizer.json"
    KIND = "tokenizer of the package tokenizers"
    EXAMPLE = EXAMPLE
    PACKAGE = "tokenizers"

    def __init__(self, model: bytes, context: int) -> None:
        # The library tokenizes in threads, and warns in every process forked afterwards. Loader processes run in
        # parallel anyway. A value that the user has set is kept.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        library = import_library("tokenizers", "hugging_face", COMMAND)
        self.model, self.context = model, context
        try:
            self._whole = library.Tokenizer.from_str(model.decode())
            self._fixed = library.Tokenizer.from_str(model.decode())
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"The tokenizer's file is damaged: {error}. Restore {self.FILE}.") from error
        padding = self._fixed.padding
        if padding is None:
            raise ValueError(f"{self.FILE} does not say how it pads. Restore the one that was written with the tower.")
        if context <= self._fixed.num_special_tokens_to_add(False):
            raise ValueError(f"A context of {context} tokens holds no text. Set a larger student.text.context.")
        self.pad = int(padding["pad_id"])
        self._whole.no_truncation()
        self._whole.no_padding()
        self._fixed.enable_truncation(context)
        names = ("direction", "pad_id", "pad_type_id", "pad_token")
        self._fixed.enable_padding(length=context, **{name: padding[name] for name in names})

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int, context: int) -> HuggingFaceTokenizer:
        raise ValueError(
            "The tokenizer of a text tower of Hugging Face comes with its folder and is not trained. Set "
            "student.text.like."
        )

    @classmethod
    def of_folder(cls, folder: Path, context: int) -> HuggingFaceTokenizer:
        """The tokenizer of a folder, as transformers itself reads it.

        Raises:
            ImportError: if transformers is not installed.
            ValueError: if the folder has none, or one that is not supported.
        """
        transformers = import_library("transformers", "hugging_face", COMMAND)
        try:
            # Not the folder's tokenizer.json itself: transformers changes it by other files, such as lower-casing.
            own = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            if type(own).__name__.startswith("SiglipTokenizer"):
                found = from_sentencepiece(own)
            else:
                found = own.backend_tokenizer
            pad = (int(own.pad_token_id), str(own.pad_token), str(own.padding_side))
        except Exception as error:  # each tokenizer raises its own errors for missing files
            raise ValueError(
                f"{folder} has no tokenizer that can be used: {error} Save it beside the model, with transformers."
            ) from error
        found.no_truncation()
        found.enable_padding(length=context, pad_id=pad[0], pad_token=pad[1], direction=pad[2])
        return cls(found.to_str().encode(), context)

    @property
    def vocab(self) -> int:
        return 1 + max(self._whole.get_vocab(with_added_tokens=True).values())

    @property
    def unknown(self) -> int | None:
        """The id of the unknown token, unless the same one pads, as in CLIP, whose bytes express everything."""
        model = json.loads(self.model)["model"]
        name = model.get("unk_token")
        found = self._whole.token_to_id(name) if name else model.get("unk_id")
        return None if found is None or found == self.pad else int(found)

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """[len(texts), context] int64, with the special tokens at the ends, padded."""
        rows = [row.ids for row in self._fixed.encode_batch(readable(texts))]
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), self.context)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(row.ids) for row in self._whole.encode_batch(readable(texts))]


def readable(texts: Sequence[str]) -> list[str]:
    """The texts with "?" for halves of surrogate pairs, which UTF-8 does not have."""
    return [text.encode("utf-8", "replace").decode() for text in texts]
