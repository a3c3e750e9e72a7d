"""Encoders trained on ImageNet-21k, like the paper's IN-21k teachers, or on ImageNet-12k, a subset of it.

The ViTs from Ti/16 to L/16 are those of "How to train your ViT?" (AugReg); the others were published later.
"""

from __future__ import annotations

from teachers.card import CLIP, HALF, IMAGENET
from teachers.hub import hub_card

IN21K, IN12K = "ImageNet-21k", "ImageNet-12k"

# Each row: timm's name with its tag; width; classes; input size in pixels; mean and std; whether the network is built
# for that size; parameters; data; arXiv number; licence.
ROWS = [
    ("vit_tiny_patch16_224.augreg_in21k", 192, 21843, 224, HALF, True, 5_524_416, IN21K, "2106.10270", "apache-2.0"),
    ("vit_small_patch32_224.augreg_in21k", 384, 21843, 224, HALF, True, 22_493_952, IN21K, "2106.10270", "apache-2.0"),
    ("vit_small_patch16_224.augreg_in21k", 384, 21843, 224, HALF, True, 21_665_664, IN21K, "2106.10270", "apache-2.0"),
    ("vit_base_patch32_224.augreg_in21k", 768, 21843, 224, HALF, True, 87_455_232, IN21K, "2106.10270", "apache-2.0"),
    ("vit_base_patch16_224.augreg_in21k", 768, 21843, 224, HALF, True, 85_798_656, IN21K, "2106.10270", "apache-2.0"),
    ("vit_base_patch8_224.augreg_in21k", 768, 21843, 224, HALF, True, 85_807_872, IN21K, "2106.10270", "apache-2.0"),
    (
        "vit_large_patch16_224.augreg_in21k",
        1024,
        21843,
        224,
        HALF,
        True,
        303_301_632,
        IN21K,
        "2106.10270",
        "apache-2.0",
    ),
    ("convnext_tiny.fb_in22k", 768, 21841, 224, IMAGENET, False, 27_820_128, IN21K, "2201.03545", "apache-2.0"),
    ("convnext_small.fb_in22k", 768, 21841, 224, IMAGENET, False, 49_454_688, IN21K, "2201.03545", "apache-2.0"),
    ("convnext_base.fb_in22k", 1024, 21841, 224, IMAGENET, False, 87_566_464, IN21K, "2201.03545", "apache-2.0"),
    ("convnext_large.fb_in22k", 1536, 21841, 224, IMAGENET, False, 196_230_336, IN21K, "2201.03545", "apache-2.0"),
    (
        "swin_base_patch4_window7_224.ms_in22k",
        1024,
        21841,
        224,
        IMAGENET,
        True,
        86_743_224,
        IN21K,
        "2103.14030",
        "mit",
    ),
    (
        "swin_large_patch4_window7_224.ms_in22k",
        1536,
        21841,
        224,
        IMAGENET,
        True,
        194_995_476,
        IN21K,
        "2103.14030",
        "mit",
    ),
    ("tf_efficientnetv2_s.in21k", 1280, 21843, 300, HALF, False, 20_177_488, IN21K, "2104.00298", "apache-2.0"),
    ("tf_efficientnetv2_m.in21k", 1280, 21843, 384, HALF, False, 52_858_356, IN21K, "2104.00298", "apache-2.0"),
    ("tf_efficientnetv2_l.in21k", 1280, 21843, 384, HALF, False, 117_234_272, IN21K, "2104.00298", "apache-2.0"),
    (
        "beitv2_base_patch16_224.in1k_ft_in22k",
        768,
        21841,
        224,
        IMAGENET,
        True,
        85_761_984,
        IN21K,
        "2208.06366",
        "apache-2.0",
    ),
    (
        "beitv2_large_patch16_224.in1k_ft_in22k",
        1024,
        21841,
        224,
        IMAGENET,
        True,
        303_405_568,
        IN21K,
        "2208.06366",
        "apache-2.0",
    ),
    ("eva02_base_patch14_448.mim_in22k_ft_in22k", 768, 21841, 448, CLIP, True, 86_348_544, IN21K, "2303.11331", "mit"),
    (
        "eva02_large_patch14_448.mim_m38m_ft_in22k",
        1024,
        21841,
        448,
        CLIP,
        True,
        304_055_232,
        "Merged-38M, ImageNet-21k",
        "2303.11331",
        "mit",
    ),
    ("convnext_nano.in12k", 640, 11821, 224, IMAGENET, False, 14_952_560, IN12K, "2201.03545", "apache-2.0"),
    (
        "mobilenetv4_conv_medium.e250_r384_in12k",
        1280,
        11821,
        384,
        IMAGENET,
        False,
        8_434_512,
        IN12K,
        "2404.10518",
        "apache-2.0",
    ),
    ("regnety_160.sw_in12k", 3024, 11821, 224, IMAGENET, False, 80_565_140, IN12K, "2003.13678", "apache-2.0"),
    (
        "vit_mediumd_patch16_reg4_gap_256.sbb2_e200_in12k",
        512,
        11821,
        256,
        HALF,
        True,
        63_596_032,
        IN12K,
        "2010.11929",
        "apache-2.0",
    ),
    (
        "vit_so150m2_patch16_reg1_gap_256.sbb_e200_in12k",
        832,
        11821,
        256,
        HALF,
        True,
        135_226_560,
        IN12K,
        "2010.11929",
        "apache-2.0",
    ),
]

CARDS = [
    hub_card(
        f"in21k/{arch.split('.')[0]}",
        arch,
        width=width,
        classes=classes,
        image_size=side,
        statistics=statistics,
        fixed_size=fixed_size,
        parameters=parameters,
        data=data,
        paper=paper,
        licence=licence,
    )
    for arch, width, classes, side, statistics, fixed_size, parameters, data, paper, licence in ROWS
]
