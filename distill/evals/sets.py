"""Cards of public evaluation sets: those of Three Towers (arXiv 2305.16999, tables 1 and 3, figures D.4 and D.5).

distill downloads none of them. Those that are hosted at huggingface.co/datasets/clip-benchmark are in a layout that
``distill evaluate --data FOLDER`` reads as it is. The addresses and the numbers are those of the publications and of
CLIP_benchmark's list of sets; none of them was contacted or counted here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SetCard:
    """A public evaluation set.

    Attributes:
        name: short, as in tables.
        use: what Three Towers uses it for: "retrieval", "zero-shot", "few-shot", "calibration", "OOD".
        images: of the split that is usually measured on.
        classes: their number; 0 for captions.
        hosted: the name under huggingface.co/datasets/clip-benchmark; "" if it is not there.
        source: where it is from.
        terms: of its use, in words.
        paper: that describes it.
    """

    name: str
    use: tuple[str, ...]
    images: int
    classes: int = 0
    hosted: str = ""
    source: str
    terms: str
    paper: str

    @property
    def address(self) -> str:
        """Where to download it."""
        return f"https://huggingface.co/datasets/clip-benchmark/{self.hosted}" if self.hosted else self.source


RESEARCH = "non-commercial research"
OWNERS = "images of their owners, for research"
BOTH = ("zero-shot", "few-shot")
SETS = (
    SetCard(
        name="imagenet-1k",
        use=(*BOTH, "calibration", "OOD"),
        images=50_000,
        classes=1000,
        hosted="wds_imagenet1k",
        source="https://image-net.org",
        terms=RESEARCH,
        paper="Deng et al., CVPR 2009",
    ),
    SetCard(
        name="imagenet-v2",
        use=("zero-shot", "calibration"),
        images=10_000,
        classes=1000,
        hosted="wds_imagenetv2",
        source="https://github.com/modestyachts/ImageNetV2",
        terms=OWNERS,
        paper="arXiv 1902.10811",
    ),
    SetCard(
        name="imagenet-a",
        use=("zero-shot", "calibration"),
        images=7_500,
        classes=200,
        hosted="wds_imagenet-a",
        source="https://github.com/hendrycks/natural-adv-examples",
        terms=OWNERS,
        paper="arXiv 1907.07174",
    ),
    SetCard(
        name="imagenet-r",
        use=("zero-shot", "calibration"),
        images=30_000,
        classes=200,
        hosted="wds_imagenet-r",
        source="https://github.com/hendrycks/imagenet-r",
        terms=OWNERS,
        paper="arXiv 2006.16241",
    ),
    SetCard(
        name="imagenet-c",
        use=("zero-shot", "calibration"),
        images=3_750_000,
        classes=1000,
        source="https://zenodo.org/records/2235448 (or on the fly: --task robustness)",
        terms="CC BY 4.0, and ImageNet's own",
        paper="arXiv 1903.12261",
    ),
    SetCard(
        name="objectnet",
        use=("zero-shot",),
        images=18_574,
        classes=113,
        hosted="wds_objectnet",
        source="https://objectnet.dev",
        terms="CC BY 4.0; not for training",
        paper="Barbu et al., NeurIPS 2019",
    ),
    SetCard(
        name="cifar-100",
        use=(*BOTH, "OOD"),
        images=10_000,
        classes=100,
        hosted="wds_vtab-cifar100",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        terms="none stated",
        paper="Krizhevsky, 2009",
    ),
    SetCard(
        name="cifar-10",
        use=("OOD",),
        images=10_000,
        classes=10,
        hosted="wds_vtab-cifar10",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        terms="none stated",
        paper="Krizhevsky, 2009",
    ),
    SetCard(
        name="caltech-101",
        use=BOTH,
        images=6_085,
        classes=102,
        hosted="wds_vtab-caltech101",
        source="https://data.caltech.edu/records/mzrjq-6wc02",
        terms="CC BY 4.0",
        paper="Fei-Fei et al., CVPR Workshop 2004",
    ),
    SetCard(
        name="pets",
        use=BOTH,
        images=3_669,
        classes=37,
        hosted="wds_vtab-pets",
        source="https://www.robots.ox.ac.uk/~vgg/data/pets",
        terms="CC BY-SA 4.0",
        paper="Parkhi et al., CVPR 2012",
    ),
    SetCard(
        name="dtd",
        use=(*BOTH, "OOD"),
        images=1_880,
        classes=47,
        hosted="wds_vtab-dtd",
        source="https://www.robots.ox.ac.uk/~vgg/data/dtd",
        terms=RESEARCH,
        paper="arXiv 1311.3618",
    ),
    SetCard(
        name="uc-merced",
        use=("few-shot",),
        images=2_100,
        classes=21,
        source="http://weegee.vision.ucmerced.edu/datasets/landuse.html",
        terms="none stated; images of the U.S. Geological Survey",
        paper="Yang and Newsam, GIS 2010",
    ),
    SetCard(
        name="cars",
        use=("few-shot",),
        images=8_041,
        classes=196,
        hosted="wds_cars",
        source="Stanford, no longer online there",
        terms=RESEARCH,
        paper="Krause et al., 3dRR 2013",
    ),
    SetCard(
        name="col-hist",
        use=("few-shot",),
        images=5_000,
        classes=8,
        source="https://zenodo.org/records/53169",
        terms="CC BY 4.0",
        paper="Kather et al., Scientific Reports 2016",
    ),
    SetCard(
        name="birds",
        use=("few-shot",),
        images=5_794,
        classes=200,
        source="https://www.vision.caltech.edu/datasets/cub_200_2011",
        terms=RESEARCH,
        paper="Wah et al., 2011",
    ),
    SetCard(
        name="eurosat",
        use=("zero-shot",),
        images=5_400,
        classes=10,
        hosted="wds_vtab-eurosat",
        source="https://github.com/phelber/EuroSAT",
        terms="MIT",
        paper="arXiv 1709.00029",
    ),
    SetCard(
        name="flowers",
        use=("zero-shot",),
        images=6_149,
        classes=102,
        hosted="wds_vtab-flowers",
        source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        terms="none stated",
        paper="Nilsback and Zisserman, ICVGIP 2008",
    ),
    SetCard(
        name="resisc45",
        use=("zero-shot",),
        images=6_300,
        classes=45,
        hosted="wds_vtab-resisc45",
        source="https://gcheng-nwpu.github.io",
        terms="none stated",
        paper="arXiv 1703.00121",
    ),
    SetCard(
        name="sun397",
        use=("zero-shot",),
        images=108_754,
        classes=397,
        hosted="wds_sun397",
        source="https://vision.princeton.edu/projects/2010/SUN",
        terms=RESEARCH,
        paper="Xiao et al., CVPR 2010",
    ),
    SetCard(
        name="svhn",
        use=("OOD",),
        images=26_032,
        classes=10,
        hosted="wds_vtab-svhn",
        source="http://ufldl.stanford.edu/housenumbers",
        terms=RESEARCH,
        paper="Netzer et al., NIPS Workshop 2011",
    ),
    SetCard(
        name="places365",
        use=("OOD",),
        images=36_500,
        classes=365,
        source="http://places2.csail.mit.edu",
        terms=RESEARCH,
        paper="Zhou et al., TPAMI 2017",
    ),
    SetCard(
        name="coco",
        use=("retrieval",),
        images=5_000,
        hosted="wds_mscoco_captions",
        source="https://cocodataset.org",
        terms="captions CC BY 4.0; images of their owners on Flickr",
        paper="arXiv 1504.00325; split of arXiv 1412.2306",
    ),
    SetCard(
        name="flickr30k",
        use=("retrieval",),
        images=1_000,
        hosted="wds_flickr30k",
        source="https://shannon.cs.illinois.edu/DenotationGraph",
        terms=RESEARCH,
        paper="arXiv 1505.04870; split of arXiv 1412.2306",
    ),
)
