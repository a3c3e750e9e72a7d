"""A teacher: the packaged EfficientNet-Lite0 under another name."""

from dataclasses import replace

from teachers.packaged import CARDS as PACKAGED

CARDS = [replace(card, name="extra/lite0") for card in PACKAGED if card.name == "packaged/efficientnet_lite0"]
