"""From a card to the teacher in memory, tried out once."""

from __future__ import annotations

import torch

from teachers.card import Card
from teachers.folder import folder_of
from teachers.frozen import Teacher, tried
from teachers.text import load_folder


def load(card: Card, image_size: int = 0, logits: bool = False) -> Teacher:
    """Load a teacher's weights, strictly. A text card's is a :class:`TextTeacher`.

    Args:
        card: which one.
        image_size: side of the images it will be given, in pixels, to be tried out here; 0: the card's.
        logits: keep an image teacher's classifier: [n, classes] logits instead of [n, P] embeddings.

    Raises:
        ImportError: if the package that carries the weights is not installed; the message says what to run.
        ConnectionError: if the weights are on the hub and it cannot be reached.
        ValueError: if the weights do not fit the architecture, or the architecture not the image size, or if
            there are no logits.
    """
    if card.modality == "text":
        if image_size or logits:
            what = "classifier, so no logits" if logits else "image size: leave out teacher.N.image_size"
            raise ValueError(f"The teacher '{card.name}' embeds texts; it has no {what}.")
        return load_folder(card, folder_of(card))
    if logits and not card.classes:
        raise ValueError(f"The teacher '{card.name}' has no classifier, so no logits. Use its embeddings.")
    import timm

    if card.weights is None:
        try:
            net = timm.create_model(card.arch, pretrained=True, num_classes=card.classes if logits else 0)
        except Exception as error:  # huggingface_hub, urllib and safetensors raise a dozen kinds
            raise ConnectionError(
                f"The weights of '{card.name}' could not be fetched ({card.source}): {error}. "
                "Run once where the hub can be reached, or set HF_HOME to a folder that already holds them."
            ) from error
    else:
        net, state = timm.create_model(card.arch, pretrained=False), card.weights()
        assert isinstance(state, dict)
        try:
            net.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise ValueError(f"The weights of '{card.name}' are not those of '{card.arch}': {error}") from error
        if not logits:
            net.reset_classifier(0)  # type: ignore[operator]
    side = image_size or card.image_size
    black = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    advice = f"Leave out teacher.N.image_size: its own is {card.image_size}."
    return tried(Teacher(card, net), black, card.classes if logits else card.width, advice)
