"""From a card to the teacher in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from teachers.card import Card
from teachers.checkpoint import check_hash, classifier_outputs, find_foreign_tensor, load_strictly, read_weights
from teachers.folder import text_teacher_folder
from teachers.frozen import EMBEDDING, LOGITS, Teacher, as_tokens, check_example
from teachers.text import load_folder


def load(card: Card, image_size: int = 0, outputs: Sequence[str] = (EMBEDDING,)) -> Teacher:
    """Load a teacher's weights, strictly. A text card's is a :class:`TextTeacher`.

    Args:
        card: which one.
        image_size: side of the images it will be given, in pixels, which are checked here; 0: the card's.
        outputs: what it shall give: "embedding" [n, P], of an image teacher with a classifier "logits" [n, C], and of
            a network that has them "tokens" [n, T, W].

    Raises:
        ImportError: if the package that carries the weights is not installed; the message says what to run.
        ConnectionError: if the weights are on the hub and it cannot be reached; the message says what to do instead.
        ValueError: if the weights do not fit the architecture, or the architecture not the image size, or if
            it does not have such an output.
    """
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
    advice = f"Leave out teacher.N.image_size: its own is {card.image_size}."
    return check_example(Teacher(card, net, outputs), black, {EMBEDDING: card.width, LOGITS: card.classes}, advice)


def token_shape(card: Card, image_size: int = 0) -> tuple[int, int]:
    """[T, W], the shape of a teacher's output "tokens" for one sample.

    Args:
        card: which teacher.
        image_size: side of its images, in pixels; 0: the card's.

    Raises:
        ValueError: if its network does not give tokens.
    """
    if card.modality == "text":
        return card.context, card.width
    import timm

    side = image_size or card.image_size
    try:
        with torch.device("meta"):  # shapes only: no weights are made and nothing is computed
            net = timm.create_model(card.arch, num_classes=0, **card.options_at(side)).eval()
            features = net.forward_features(torch.zeros(1, 3, side, side))  # type: ignore[operator]
            tokens = as_tokens(features, int(net.num_features))  # type: ignore[arg-type]
    except Exception as error:  # the forward of an arbitrary network
        raise ValueError(f"The teacher '{card.name}' has no tokens: {error}. Choose another objective.") from error
    return int(tokens.shape[1]), int(tokens.shape[2])


def network(card: Card, side: int) -> nn.Module:
    """The network of an image teacher with its weights, classifier included, for images of ``side`` pixels."""
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
    """timm's network with given weights, which are those of the file: renamed at most.

    For images of another size than the card's, positions are interpolated; then the file must be of the card's size.

    Raises:
        ValueError: if they are another architecture's.
    """
    net = translated(card, side, state)
    strange = find_foreign_tensor(net.state_dict(), state)
    if strange and side != card.image_size:
        strange = find_foreign_tensor(translated(card, card.image_size, state).state_dict(), state)
    if strange:
        raise ValueError(f"The weights of '{card.name}' ({card.arch}) do not fit: {strange}. {remedy(card)}")
    return net


def remedy(card: Card) -> str:
    """What to do about weights that do not fit."""
    if card.install:
        return f"Install its package again: {card.install}."
    if card.name.startswith("local/"):
        return "Its config.json and the weights must be of one network: save the folder again."
    return "Name the architecture and image size they were made with as teacher.N.name and teacher.N.image_size."


def translated(card: Card, side: int, state: dict[str, torch.Tensor]) -> nn.Module:
    """timm's network with given weights; timm translates the names of an architecture's original code.

    Raises:
        ValueError: if a key is missing, too many or of another shape.
    """
    import timm

    options, failure = card.options_at(side), None
    counts = class_counts(card.arch, state)
    for classes in counts:
        # Of the shape of the file, so that every key must be there and fit.
        overlay = {"state_dict": dict(state), "num_classes": classes, "label_offset": 0}
        try:
            return timm.create_model(
                card.arch, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay, **options
            )
        except MemoryError:
            raise
        except Exception as error:  # what translates the names may never have met such
            failure = error
    net = timm.create_model(card.arch, num_classes=counts[0], **options)
    try:
        load_strictly(net, state, f"'{card.name}' ({card.arch})", remedy(card))
    except ValueError as error:
        raise error from failure
    return net


def class_counts(arch: str, state: dict[str, torch.Tensor]) -> list[int]:
    """How many classes a file's network may have, the likeliest first.

    A file under an architecture's original names shows its classifier only when they are translated.
    """
    import timm

    name = arch.split(".")[0]
    tags = [arch, *timm.list_pretrained(f"{name}.*")]
    configs = [config for config in map(timm.get_pretrained_cfg, tags) if config is not None]
    named = (configs[0].classifier if configs else "") or ""
    # Distilled networks have two classifiers, of the same classes.
    shown = classifier_outputs(state, named if isinstance(named, str) else next(iter(named)))
    return list(dict.fromkeys([shown, *(config.num_classes for config in configs)]))


def from_hub(card: Card, options: dict[str, Any]) -> nn.Module:
    """timm's network with timm's own weights. With the classifier: without it timm would not miss a missing key."""
    import timm

    config = timm.get_pretrained_cfg(card.arch)
    if config is None or not config.has_weights:
        raise ValueError(f"timm has no weights of '{card.arch}'. Name a file that has them as teacher.N.weights.")
    try:
        return timm.create_model(card.arch, pretrained=True, **options)
    except Exception as error:  # huggingface_hub, urllib and safetensors raise a dozen kinds
        by_hand = f", or fetch {card.url} elsewhere and name that file as teacher.N.weights" if card.url else ""
        raise ConnectionError(
            f"The weights of '{card.name}' could not be had ({card.source}): {error}. Run once where the hub can be "
            f"reached, set HF_HOME to a folder that already holds them{by_hand}."
        ) from error
