"""Encoders trained with images of JFT-300M: Noisy Student EfficientNets.

The paper's JFT teachers are not public. These models are. They were trained on ImageNet-1k and on the 300 million
images of JFT without their labels.
"""

from __future__ import annotations

from teachers.card import IMAGENET
from teachers.hub import hub_card

# Each row: size; width; input size in pixels; parameters; suffix of timm's tag.
ROWS = [
    ("b0", 1280, 224, 4_007_548, ""),
    ("b1", 1280, 240, 6_513_184, ""),
    ("b2", 1408, 260, 7_700_994, ""),
    ("b3", 1536, 300, 10_696_232, ""),
    ("b4", 1792, 380, 17_548_616, ""),
    ("b5", 2048, 456, 28_340_784, ""),
    ("b6", 2304, 528, 40_735_704, ""),
    ("b7", 2560, 600, 63_786_960, ""),
    ("l2", 5504, 800, 474_804_308, ""),
    ("l2", 5504, 475, 474_804_308, "_475"),
]

CARDS = [
    hub_card(
        f"jft/efficientnet_{size}{suffix}",
        f"tf_efficientnet_{size}.ns_jft_in1k{suffix}",
        width=width,
        classes=1000,
        image_size=side,
        statistics=IMAGENET,
        parameters=parameters,
        data="JFT-300M without labels, ImageNet-1k",
        paper="1911.04252",
    )
    for size, width, side, parameters, suffix in ROWS
]
