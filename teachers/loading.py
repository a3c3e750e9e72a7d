"""Loads the teacher that a card describes, and runs one example through it."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from teachers.card import Card
from teachers.checkpoint import check_hash, classifier_outputs, find_foreign_tensor, load_strictly, read_weights
from teachers.folder import sentence_encoder_files, text_teacher_folder
from teachers.frozen import EMBEDDING, LOGITS, Teacher, as_tokens, check_example
from teachers.text import TextTower, load_folder
from teachers.tokens import LIBRARIES


def load(card: Card, image_size: int = 0, outputs: Sequence[str] = (EMBEDDING,)) -> Teacher:
    """Load a teacher; all weights must be there and fit. For a text card it is a :class:`teachers.TextTeacher`.

    Args:
        card: the card of the teacher.
        image_size: side of its input images, in pixels, which is checked with a black image; 0 for the card's.
        outputs: the outputs that it computes: "embedding" [n, P]; "logits" [n, C] of an image teacher with a
            classifier; "tokens" [n, T, W] of a network that has them.

    Raises:
        ImportError: if the package that carries the weights is not installed; the message says what to run.
        ConnectionError: if the weights are on the hub and it cannot be reached; the message says what to do instead.
        ValueError: if the weights do not fit the architecture, the image size does not fit the architecture, or the
            teacher does not have an output.
    """
    if card.library:
        return load_tower(card, image_size, outputs)
    if card.modality == "text":
        if image_size or LOGITS in outputs:
            what = "classifier, so no logits" if LOGITS in outputs else "image size: leave out teacher.N.image_size"
            raise ValueError(f"The teacher '{card.name}' embeds texts; it has no {what}.")
        return load_folder(card, text_teacher_folder(card), outputs)
    if LOGITS in outputs and not card.classes:
        raise ValueError(f"The teacher '{card.name}' has no classifier, so no logits. Use its embeddings.")
    side = image_size or card.image_size
    net = network(card, side)
    if LOGITS not in outputs and hasattr(net, "reset_classifier"):
        net.reset_classifier(0)  # type: ignore[operator]
    black = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    advice = f"Leave out teacher.N.image_size; the teacher's image size is {card.image_size}."
    return check_example(Teacher(card, net, outputs), black, {EMBEDDING: card.width, LOGITS: card.classes}, advice)


def load_tower(card: Card, image_size: int, outputs: Sequence[str]) -> Teacher:
    """Load a tower from a folder of transformers or open_clip; raises like :func:`load`."""
    if tuple(outputs) != (EMBEDDING,):
        other = next((name for name in outputs if name != EMBEDDING), "nothing")
        raise ValueError(f"The teacher '{card.name}' gives its embedding only, no {other}. Choose another objective.")
    if card.modality == "text" and image_size:
        raise ValueError(f"The teacher '{card.name}' embeds texts; it has no image size: leave out image_size.")
    assert card.file is not None
    side = image_size or card.image_size
    net = LIBRARIES[card.library].load_network(card, card.file(), side)
    if card.modality == "text":
        example = torch.ones(1, card.context, dtype=torch.int64)
        return check_example(TextTower(card, net), example, {EMBEDDING: card.width}, "Save the model again.")
    black = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    advice = f"Leave out teacher.N.image_size; the teacher's image size is {card.image_size}."
    return check_example(Teacher(card, net), black, {EMBEDDING: card.width}, advice)


def files(card: Card) -> list[Path]:
    """The files of a teacher on which its embeddings depend: of a folder also the configuration and the tokenizer.

    Raises:
        ImportError: if the package that contains them is not installed.
        ValueError: if one that must be there is missing.
    """
    if card.file is None:
        return []
    if card.library:
        found: list[Path] = LIBRARIES[card.library].files(card, card.file())
        return found
    return sentence_encoder_files(card, card.file()) if card.modality == "text" else [card.file()]


def token_shape(card: Card, image_size: int = 0) -> tuple[int, int]:
    """The shape [T, W] of a teacher's output "tokens" for one sample.

    Args:
        card: the card of the teacher.
        image_size: side of its input images, in pixels; 0 for the card's.

    Raises:
        ValueError: if its network does not have tokens.
    """
    if card.library:
        raise ValueError(f"The teacher '{card.name}' gives its embedding only, no tokens. Choose another objective.")
    if card.modality == "text":
        return card.context, card.width
    side = image_size or card.image_size
    return _token_shape(card.name, card.arch, json.dumps(card.options_at(side), sort_keys=True), side)


@functools.cache
def _token_shape(name: str, arch: str, options: str, side: int) -> tuple[int, int]:
    import timm

    try:
        with torch.device("meta"):  # only shapes: no weights are allocated and nothing is computed
            net = timm.create_model(arch, num_classes=0, **json.loads(options)).eval()
            features = net.forward_features(torch.zeros(1, 3, side, side))  # type: ignore[operator]
            tokens = as_tokens(features, int(net.num_features))  # type: ignore[arg-type]
    except Exception as error:  # the forward of an arbitrary network
        raise ValueError(f"The teacher '{name}' has no tokens: {error}. Choose another objective.") from error
    return int(tokens.shape[1]), int(tokens.shape[2])


def network(card: Card, side: int) -> nn.Module:
    """Load the network of an image teacher, including its classifier, for images of ``side`` pixels."""
    if card.file is None:
        return from_hub(card, card.options_at(side))
    path = card.file()
    check_hash(path, card.sha256)
    state = (card.read or read_weights)(path)
    if card.build is not None:
        net = card.build()
        load_strictly(net, state, f"'{card.name}'", remedy(card))
        return net
    return from_state(card, side, state)


def from_state(card: Card, side: int, state: dict[str, torch.Tensor]) -> nn.Module:
    """Build timm's network with the weights of a file, and check that they were only renamed.

    For images of another size than the card's, timm interpolates position embeddings; then the check is made with a
    network of the card's size.

    Raises:
        ValueError: if they are the weights of another architecture.
    """
    net = translated(card, side, state)
    foreign = find_foreign_tensor(net.state_dict(), state)
    if foreign and side != card.image_size:
        foreign = find_foreign_tensor(translated(card, card.image_size, state).state_dict(), state)
    if foreign:
        raise ValueError(f"The weights of '{card.name}' ({card.arch}) do not fit: {foreign}. {remedy(card)}")
    return net


def remedy(card: Card) -> str:
    """For messages: what to do about weights that do not fit."""
    if card.install:
        return f"Install its package again: {card.install}."
    if card.name.startswith("local/"):
        return "Its config.json and the weights must be of one network: save the folder again."
    return "Name the architecture and image size they were made with as teacher.N.name and teacher.N.image_size."


def translated(card: Card, side: int, state: dict[str, torch.Tensor]) -> nn.Module:
    """Build timm's network with given weights; timm renames those of an architecture's original code.

    Raises:
        ValueError: if a key is missing, unexpected or of another shape.
    """
    import timm

    options, failure = card.options_at(side), None
    counts = class_counts(card.arch, state)
    for classes in counts:
        # With the number of classes of the file, so that every key must be present and fit.
        overlay = {"state_dict": dict(state), "num_classes": classes, "label_offset": 0}
        try:
            return timm.create_model(
                card.arch, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay, **options
            )
        except MemoryError:
            raise
        except Exception as error:  # the functions that rename keys raise many kinds on unknown ones
            failure = error
    net = timm.create_model(card.arch, num_classes=counts[0], **options)
    try:
        load_strictly(net, state, f"'{card.name}' ({card.arch})", remedy(card))
    except ValueError as error:
        raise error from failure
    return net


def class_counts(arch: str, state: dict[str, torch.Tensor]) -> list[int]:
    """The numbers of classes that a file's network may have, the most likely first.

    With the names of an architecture's original code, the classifier is unknown until timm has renamed the keys.
    """
    import timm

    tags = [arch, *timm.list_pretrained(f"{arch.split('.')[0]}.*")]
    configs = [config for config in map(timm.get_pretrained_cfg, tags) if config is not None]
    classifier = (configs[0].classifier if configs else "") or ""
    # Distilled networks have two classifiers with the same classes.
    name = classifier if isinstance(classifier, str) else next(iter(classifier))
    in_file = classifier_outputs(state, name)
    return list(dict.fromkeys([in_file, *(config.num_classes for config in configs)]))


def from_hub(card: Card, options: dict[str, Any]) -> nn.Module:
    """Load timm's network with its pretrained weights and classifier; without one, timm ignores missing keys."""
    import timm

    config = timm.get_pretrained_cfg(card.arch)
    if config is None or not config.has_weights:
        raise ValueError(f"timm has no weights of '{card.arch}'. Name a file that has them as teacher.N.weights.")
    try:
        return timm.create_model(card.arch, pretrained=True, **options)
    except Exception as error:  # huggingface_hub, urllib and safetensors raise many kinds
        download = f", or fetch {card.url} elsewhere and name that file as teacher.N.weights" if card.url else ""
        raise ConnectionError(
            f"The weights of '{card.name}' could not be had ({card.source}): {error}. Run once where the hub can be "
            f"reached, set HF_HOME to a folder that already holds them{download}."
        ) from error
