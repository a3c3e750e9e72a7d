"""Image towers of web-scale models: SigLIP 2, DINOv2, DINOv3, CLIP and its open successors, EVA, Perception Encoder.

Their embedding is the pooled token, before the projection into the space shared with texts. Models that were trained
with QuickGELU are timm's ``quickgelu`` variants, which compute that activation.
"""

from __future__ import annotations

from teachers.card import CLIP, HALF, IMAGENET
from teachers.hub import hub_card

WEBLI = ("WebLI", "2502.14786", "apache-2.0")
LVD142M = ("LVD-142M, without labels", "2304.07193", "apache-2.0")
LVD1689M = ("LVD-1689M, without labels", "2508.10104", "dinov3-license")
WIT = ("400 million image-text pairs (OpenAI)", "2103.00020", "apache-2.0")
LAION = ("LAION-2B", "2212.07143", "apache-2.0")
DATACOMP = ("DataComp-1B", "2304.14108", "apache-2.0")
DFN2B = ("DFN-2B", "2309.17425", "apple-ascl")
DFN5B = ("DFN-5B", "2309.17425", "apple-ascl")
METACLIP = ("MetaCLIP, 2.5 billion pairs", "2309.16671", "cc-by-nc-4.0")
MERGED2B = ("Merged-2B (LAION, COYO)", "2303.15389", "mit")
PE = ("5.4 billion image-text pairs (Meta)", "2504.13181", "apache-2.0")

# Each row: timm's name with its tag; width; input size; statistics; parameters; data, paper and licence.
ROWS = [
    ("vit_base_patch32_siglip_256.v2_webli", 768, 256, HALF, 94_552_320, WEBLI),
    ("vit_base_patch16_siglip_224.v2_webli", 768, 224, HALF, 92_884_224, WEBLI),
    ("vit_base_patch16_siglip_512.v2_webli", 768, 512, HALF, 93_520_128, WEBLI),
    ("vit_large_patch16_siglip_256.v2_webli", 1024, 256, HALF, 315_956_224, WEBLI),
    ("vit_so400m_patch14_siglip_224.v2_webli", 1152, 224, HALF, 427_680_704, WEBLI),
    ("vit_so400m_patch14_siglip_378.v2_webli", 1152, 378, HALF, 428_225_600, WEBLI),
    ("vit_giantopt_patch16_siglip_256.v2_webli", 1536, 256, HALF, 1_163_168_256, WEBLI),
    ("vit_small_patch14_dinov2.lvd142m", 384, 518, IMAGENET, 22_056_192, LVD142M),
    ("vit_base_patch14_dinov2.lvd142m", 768, 518, IMAGENET, 86_579_712, LVD142M),
    ("vit_large_patch14_dinov2.lvd142m", 1024, 518, IMAGENET, 304_367_616, LVD142M),
    ("vit_giant_patch14_dinov2.lvd142m", 1536, 518, IMAGENET, 1_136_479_232, LVD142M),
    ("vit_small_patch16_dinov3.lvd1689m", 384, 256, IMAGENET, 21_586_944, LVD1689M),
    ("vit_base_patch16_dinov3.lvd1689m", 768, 256, IMAGENET, 85_641_216, LVD1689M),
    ("vit_large_patch16_dinov3.lvd1689m", 1024, 256, IMAGENET, 303_079_424, LVD1689M),
    ("vit_huge_plus_patch16_dinov3.lvd1689m", 1280, 256, IMAGENET, 840_509_440, LVD1689M),
    ("convnext_tiny.dinov3_lvd1689m", 768, 224, IMAGENET, 27_820_128, LVD1689M),
    ("convnext_base.dinov3_lvd1689m", 1024, 224, IMAGENET, 87_566_464, LVD1689M),
    ("vit_base_patch32_clip_quickgelu_224.openai", 768, 224, CLIP, 87_456_000, WIT),
    ("vit_base_patch16_clip_quickgelu_224.openai", 768, 224, CLIP, 85_799_424, WIT),
    ("vit_large_patch14_clip_quickgelu_224.openai", 1024, 224, CLIP, 303_179_776, WIT),
    ("vit_large_patch14_clip_quickgelu_336.openai", 1024, 336, CLIP, 303_507_456, WIT),
    ("vit_base_patch32_clip_224.laion2b", 768, 224, CLIP, 87_456_000, LAION),
    ("vit_base_patch16_clip_224.laion2b", 768, 224, CLIP, 85_799_424, LAION),
    ("vit_large_patch14_clip_224.laion2b", 1024, 224, HALF, 303_179_776, LAION),
    ("vit_huge_patch14_clip_224.laion2b", 1280, 224, CLIP, 630_766_080, LAION),
    ("vit_base_patch16_clip_224.datacompxl", 768, 224, CLIP, 85_799_424, DATACOMP),
    ("vit_large_patch14_clip_224.datacompxl", 1024, 224, CLIP, 303_179_776, DATACOMP),
    ("vit_base_patch16_clip_224.dfn2b", 768, 224, CLIP, 85_799_424, DFN2B),
    ("vit_large_patch14_clip_quickgelu_224.dfn2b", 1024, 224, CLIP, 303_179_776, DFN2B),
    ("vit_huge_patch14_clip_quickgelu_378.dfn5b", 1280, 378, CLIP, 631_371_520, DFN5B),
    ("vit_large_patch14_clip_quickgelu_224.metaclip_2pt5b", 1024, 224, CLIP, 303_179_776, METACLIP),
    ("eva02_base_patch16_clip_224.merged2b", 768, 224, CLIP, 85_869_312, MERGED2B),
    ("eva02_large_patch14_clip_224.merged2b", 1024, 224, CLIP, 303_317_952, MERGED2B),
    ("eva02_large_patch14_clip_336.merged2b", 1024, 336, CLIP, 303_645_632, MERGED2B),
    ("vit_pe_core_tiny_patch16_384.fb", 192, 384, HALF, 6_042_240, PE),
    ("vit_pe_core_small_patch16_384.fb", 384, 384, HALF, 23_586_048, PE),
    ("vit_pe_core_base_patch16_224.fb", 768, 224, HALF, 92_886_528, PE),
    ("vit_pe_core_large_patch14_336.fb", 1024, 336, HALF, 316_102_656, PE),
    ("vit_pe_core_gigantic_patch14_448.fb", 1536, 448, HALF, 1_880_066_560, PE),
]


def hub_repository(arch: str) -> str:
    """The name of a timm model's repository on the hub; a variant with QuickGELU shares that of the one without."""
    return arch.replace("_quickgelu", "")


CARDS = [
    hub_card(
        f"web/{arch}",
        arch,
        width=width,
        image_size=side,
        statistics=statistics,
        fixed_size=arch.startswith(("vit_", "eva")),
        parameters=parameters,
        data=about[0],
        paper=about[1],
        licence=about[2],
        hub=hub_repository(arch),
    )
    for arch, width, side, statistics, parameters, about in ROWS
]
