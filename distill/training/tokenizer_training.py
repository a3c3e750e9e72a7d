"""The tokenizer of a run: trained on its captions if there is none, and how well it can express them."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from distill.data.captions import Caption
from distill.errors import as_user_errors
from distill.resolved import ResolvedRecipe
from distill.training.training_set import TrainingSet
from students import Tokenizer

TRAINING_SAMPLES = 1_000_000  # more samples change a vocabulary of the usual size very little
REPORTED_CAPTIONS = 20_000  # tokenized for the report; a second's work
LONG = 0.1  # the share of captions that the context cuts off above which it is worth a hint


def prepare_tokenizer(
    resolved: ResolvedRecipe, existing: Tokenizer | None, data: TrainingSet
) -> tuple[Tokenizer | None, dict[str, Any] | None]:
    """The tokenizer of a new run, and what :func:`report` says of it; the latter is printed, too.

    Args:
        resolved: the recipe.
        existing: the tokenizer that the recipe names; None to train one on the training captions.
        data: the training set.

    Returns:
        None and None without a text student. There is no report of an existing tokenizer with streams, which would
        have to be read for it.

    Raises:
        UserError: if it cannot be trained.
    """
    if resolved.text is None or resolved.text_options is None:
        return None, None
    if existing is not None and resolved.recipe.data.streamed:
        return existing, None
    # Read all texts first: SentencePiece treats an exception of the iterator as the end of the texts.
    captions = list(data.captions(TRAINING_SAMPLES if existing is None else REPORTED_CAPTIONS))
    tokenizer = existing
    if tokenizer is None:
        vocab = resolved.recipe.student.tokenizer.vocab
        with as_user_errors():
            tokenizer = resolved.text.Tokenizer.train(
                [caption.text for caption in captions], vocab, resolved.text_options.context
            )
        if tokenizer.vocab < vocab:
            print(
                f"The tokenizer has {tokenizer.vocab:,} pieces instead of {vocab:,}: these captions give no more.",
                file=sys.stderr,
            )
    found = report(tokenizer, captions[:: 1 + (len(captions) - 1) // REPORTED_CAPTIONS])
    print_report(found, tokenizer.context)
    return tokenizer, found


def report(tokenizer: Tokenizer, captions: Sequence[Caption]) -> dict[str, Any]:
    """How well a tokenizer expresses some captions.

    Returns:
        "captions": their number; "languages": for each, "" for those without one, the number of its "captions", the
        mean number of "tokens", the share that is "cut" off by the context and the number with an "unknown" token
        (each of these None if the tokenizer does not say); "become_equal": the number of different captions whose
        tokens, as the text tower reads them, are those of another one.
    """
    groups = defaultdict[str, list[str]](list)
    for caption in captions:
        groups[caption.language].append(caption.text)
    languages = {name: statistics(tokenizer, texts) for name, texts in sorted(groups.items())}
    different = list(dict.fromkeys(caption.text for caption in captions))
    rows = {row.numpy().tobytes() for row in tokenizer.encode(different)}
    return {"captions": len(captions), "languages": languages, "become_equal": len(different) - len(rows)}


def statistics(tokenizer: Tokenizer, texts: list[str]) -> dict[str, Any]:
    """The entry of one language in :func:`report`."""
    ids = tokenizer.token_ids(texts)
    if ids is None:
        return {"captions": len(texts), "tokens": None, "cut": None, "unknown": None}
    return {
        "captions": len(texts),
        "tokens": sum(map(len, ids)) / len(texts),
        "cut": sum(len(row) > tokenizer.context for row in ids) / len(texts),
        "unknown": sum(tokenizer.unknown in row for row in ids) if tokenizer.unknown is not None else 0,
    }


def print_report(found: dict[str, Any], context: int) -> None:
    """Print what :func:`report` found, as a table, to standard error."""
    rows = [("captions", "number", "tokens each", "cut off", "with unknown")]
    for name, one in found["languages"].items():
        known = one["tokens"] is not None
        rows.append(
            (
                name or "language not said",
                f"{one['captions']:,}",
                f"{one['tokens']:.1f}" if known else "not said",
                f"{one['cut']:.1%}" if known else "not said",
                f"{one['unknown']:,}" if known else "not said",
            )
        )
    lines = [f"  {name:20}" + "".join(f"{cell:>14}" for cell in cells) for name, *cells in rows]
    hints = []
    if found["become_equal"]:
        hints.append(f"{found['become_equal']:,} of the different captions have the same tokens as another one")
    if any((one["cut"] or 0) > LONG for one in found["languages"].values()):
        hints.append("a longer student.text.context cuts off less")
    print("\n".join(lines), file=sys.stderr)
    if hints:
        print(f"  With a context of {context} tokens: {'; '.join(hints)}.", file=sys.stderr)
