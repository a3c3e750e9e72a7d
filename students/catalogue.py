"""Image students that are tested: architectures of timm with their sizes. Other timm models can be students, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ImageStudent:
    """An architecture as timm defines it.

    Attributes:
        arch: timm's name.
        family: the kind of network.
        image_size: the side of the images that it was made for, in pixels; most take others.
        width: of its pooled features, before the projection.
        parameters: number of weights without the projection.
        gflops: 10⁹ floating-point operations of the forward of one such image, a multiplication and an addition each
            counted.
        note: what else is to be known.
    """

    arch: str
    family: str
    image_size: int
    width: int
    parameters: int
    gflops: float
    note: str = ""


THREE_TOWERS = "Three Towers, arXiv 2305.16999"
IMAGE_STUDENTS = (
    ImageStudent("vit_tiny_patch16_224", "ViT", 224, 192, 5_524_416, 2.51),
    ImageStudent("vit_small_patch16_224", "ViT", 224, 384, 21_665_664, 9.2),
    ImageStudent("vit_base_patch16_224", "ViT", 224, 768, 85_798_656, 35.1),
    ImageStudent("vit_large_patch16_224", "ViT", 224, 1024, 303_301_632, 123, THREE_TOWERS),
    ImageStudent("vit_small_patch32_224", "ViT", 224, 384, 22_493_952, 2.29, THREE_TOWERS),
    ImageStudent("vit_base_patch32_224", "ViT", 224, 768, 87_455_232, 8.82, THREE_TOWERS),
    ImageStudent("vit_giant_patch14_224", "ViT", 224, 1408, 1_011_202_432, 534, THREE_TOWERS),
    ImageStudent("vit_so150m_patch16_reg4_map_256", "SoViT", 256, 896, 140_584_064, 74.3, "attention pooling"),
    ImageStudent("vit_so400m_patch14_siglip_224", "SoViT", 224, 1152, 427_680_704, 220, "attention pooling"),
    ImageStudent("mixer_s32_224", "Mixer", 224, 512, 18_591_624, 2.0),
    ImageStudent("mixer_b16_224", "Mixer", 224, 768, 59_111_472, 25.2),
    ImageStudent("resnet18", "ResNet", 224, 512, 11_176_512, 3.63),
    ImageStudent("resnet50", "ResNet", 224, 2048, 23_508_032, 8.17),
    ImageStudent("resnetv2_50x1_bit", "BiT", 224, 2048, 23_500_352, 8.17, "group norm"),
    ImageStudent("convnext_atto", "ConvNeXt", 224, 320, 3_374_520, 1.09),
    ImageStudent("convnext_pico", "ConvNeXt", 224, 512, 8_532_672, 2.73),
    ImageStudent("convnext_tiny", "ConvNeXt", 224, 768, 27_820_128, 8.91),
    ImageStudent("tf_efficientnet_lite0", "EfficientNet-Lite", 224, 1280, 3_371_008, 0.768, "width_multiplier"),
    ImageStudent("tf_efficientnet_lite2", "EfficientNet-Lite", 260, 1280, 4_811_072, 1.72, "width_multiplier"),
    ImageStudent("tf_efficientnet_lite4", "EfficientNet-Lite", 380, 1280, 11_725_568, 7.88, "width_multiplier"),
    ImageStudent("mobilenetv3_small_100", "MobileNet", 224, 1024, 1_517_856, 0.111, "width_multiplier"),
    ImageStudent("mobilenetv4_conv_small_050", "MobileNet", 224, 1280, 957_952, 0.127, "width_multiplier"),
    ImageStudent("mobilenetv4_conv_small", "MobileNet", 224, 1280, 2_493_024, 0.369, "width_multiplier"),
    ImageStudent("mobilenetv4_conv_medium", "MobileNet", 256, 1280, 8_434_512, 2.16, "width_multiplier"),
    ImageStudent("mobilenetv4_hybrid_medium", "MobileNet", 256, 1280, 9_793_648, 2.54, "width_multiplier"),
    ImageStudent("fastvit_t8", "FastViT", 256, 768, 3_257_232, 1.38),
    ImageStudent("fastvit_sa12", "FastViT", 256, 1024, 10_555_968, 3.89),
    ImageStudent("repvit_m0_9", "RepViT", 224, 384, 4_717_792, 1.63),
    ImageStudent("repvit_m1_5", "RepViT", 224, 512, 13_616_384, 4.55),
    ImageStudent("test_vit", "tiny, for tests", 160, 64, 306_240, 0.0751),
    ImageStudent("test_resnet", "tiny, for tests", 160, 96, 372_688, 0.205),
    ImageStudent("test_convnext", "tiny, for tests", 160, 64, 207_128, 0.0623),
    ImageStudent("test_efficientnet", "tiny, for tests", 160, 256, 99_196, 0.114, "width_multiplier"),
)


def gflops(net: nn.Module, image_size: int) -> float:
    """10⁹ floating-point operations of a network's forward of one image, counted by torch.

    Args:
        net: reads [n, 3, image_size, image_size].
        image_size: in pixels.
    """
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    # On the meta device nothing is computed; on the CPU torch does not count the operations of attention.
    net = copy.deepcopy(net).to("meta").eval()
    with FlopCounterMode(display=False) as counter:  # with gradients: some networks have another path without
        net(torch.zeros(1, 3, image_size, image_size, device="meta"))
    return counter.get_total_flops() / 1e9
