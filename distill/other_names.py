"""What to write for names that other tools have for a setting, and for keys that stand in another table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from distill.config import Recipe, TeacherTable
from distill.errors import did_you_mean

# Other tools' names of keys.
KEYS = {
    **dict.fromkeys(("learning_rate", "base_lr", "max_lr", "peak_lr"), "optim.lr"),
    **dict.fromkeys(("wd", "decay"), "optim.weight_decay"),
    **dict.fromkeys(("warmup_steps", "warmup_epochs", "warmup_ratio"), "optim.warmup"),
    **dict.fromkeys(("optimizer", "optimiser", "opt"), "optim.name"),
    **dict.fromkeys(("grad_clip", "clip_grad", "grad_clip_norm", "max_grad_norm"), "optim.clip"),
    **dict.fromkeys(("batch", "bs", "global_batch_size"), "train.batch_size"),
    **dict.fromkeys(("accum_freq", "gradient_accumulation_steps", "accumulate_grad_batches"), "train.micro_batch"),
    **dict.fromkeys(("num_epochs", "max_epochs"), "train.epochs"),
    **dict.fromkeys(("max_steps", "num_steps", "iterations"), "train.steps"),
    **dict.fromkeys(("amp", "mixed_precision", "dtype"), "train.precision"),
    **dict.fromkeys(("num_workers", "n_workers"), "data.workers"),
    **dict.fromkeys(("train_data", "dataset", "root"), "data.train"),
    **dict.fromkeys(("hflip", "horizontal_flip", "random_flip"), "data.flip"),
    **dict.fromkeys(("randaugment", "randaug", "auto_augment", "aa"), "data.augment.rand_augment"),
    **dict.fromkeys(("jitter", "colorjitter", "colour_jitter"), "data.augment.color_jitter"),
    **dict.fromkeys(("grey", "gray", "grayscale", "greyscale", "gray_scale_prob"), "data.augment.grayscale_prob"),
    **dict.fromkeys(("blur", "gaussian_blur", "blur_prob"), "data.augment.gaussian_blur_prob"),
    **dict.fromkeys(("re_prob", "reprob", "erase", "random_erasing"), "data.augment.random_erasing_prob"),
    **dict.fromkeys(("val", "val_data", "test"), "data.eval"),
    **dict.fromkeys(("resolution", "input_size", "imgsz"), "data.image_size"),
    **dict.fromkeys(("loss", "losses"), "objective.name"),
    **dict.fromkeys(("embed_dim", "embedding_dim", "projection_dim"), "student.width"),
    **dict.fromkeys(("tau", "init_temperature"), "student.temperature"),
    **dict.fromkeys(("vocab_size",), "student.tokenizer.vocab"),
    **dict.fromkeys(("dim", "depth", "heads"), "student.text"),
    **dict.fromkeys(("context", "context_length", "max_length"), "student.text.context"),
    **dict.fromkeys(("img_size", "global_pool", "class_token"), "student.image"),
    **dict.fromkeys(("teachers",), "[[teacher]]"),
}
CONTRASTIVE = 'objective.name = "contrastive"'
# Other tools' names of objectives, by their letters and digits in lower case.
OBJECTIVES = {
    **dict.fromkeys(("clip", "infonce", "ntxent", "scratch", "baseline", "openclip"), CONTRASTIVE),
    **dict.fromkeys(("siglip", "sigmoid"), f'{CONTRASTIVE} and objective.pair = "sigmoid"'),
    **dict.fromkeys(("lit", "lockedimagetuning"), f'{CONTRASTIVE} and student.image = {{ arch = "teacher" }}'),
    **dict.fromkeys(
        ("siglit",), f'{CONTRASTIVE}, objective.pair = "sigmoid" and student.image = {{ arch = "teacher" }}'
    ),
    **dict.fromkeys(
        ("flexilit", "flexilit1", "flexilit2"), f'{CONTRASTIVE} and student.image = {{ arch = "teacher", layers = 4 }}'
    ),
    **dict.fromkeys(("3t", "3towers"), 'objective.name = "three_towers"'),
    **dict.fromkeys(("mse", "l2transfer", "feature", "featuremse"), 'objective.name = "l2"'),
    **dict.fromkeys(("cosinesimilarity", "cos"), 'objective.name = "cosine"'),
    **dict.fromkeys(("huber", "smoothl1loss"), 'objective.name = "smooth_l1"'),
    **dict.fromkeys(("rkd", "similarity"), 'objective.name = "relational"'),
    **dict.fromkeys(("clipkd", "icl", "affinity", "mobileclip"), 'objective.name = "crd"'),
    **dict.fromkeys(("kl", "kd", "logits", "distillation"), 'objective.name = "function_matching"'),
}
OPTIMIZERS = {
    **dict.fromkeys(("adam", "fusedadam", "adamw8bit", "adamwfused"), 'optim.name = "adamw"'),
    **dict.fromkeys(("scalingvit", "bigvisionadafactor", "scaledadafactor"), 'optim.name = "adafactor"'),
}
PRECISIONS = {
    **dict.fromkeys(
        ("bfloat16", "ampbf16", "ampbfloat16", "amp", "bf16mixed", "purebf16"), 'train.precision = "bf16"'
    ),
    **dict.fromkeys(("float32", "fp32true", "32", "tf32"), 'train.precision = "fp32"'),
    **dict.fromkeys(("fp16", "float16", "half", "ampfp16"), 'train.precision = "bf16", which needs no loss scaling'),
}
VALUES = {"objective.name": OBJECTIVES, "optim.name": OPTIMIZERS, "train.precision": PRECISIONS}


def remedy_for_value(key: str, value: object, otherwise: str) -> str:
    """What to write instead of a value of a key that other tools know; ``otherwise`` if there is nothing."""
    letters = "".join(c for c in str(value).lower() if c.isalnum())
    meant = VALUES.get(key, {}).get(letters)
    return f"Write {meant}." if meant else otherwise


def remedy_for_key(name: str, known: list[str], table: str) -> str:
    """What to write instead of a key that its table does not have.

    Args:
        name: the key.
        known: the keys that the table has.
        table: the dotted name of the table; "" for the recipe itself.
    """
    places = [place for place in places_of(name, Recipe) if place != f"{table}.{name}".lstrip(".")]
    if places:
        return f"It belongs into another table: write {' or '.join(places)}."
    otherwise = f"Known here: {', '.join(known) or 'nothing'}."
    meant = KEYS.get(name.lower().replace("-", "_"))
    near = did_you_mean(name, known, otherwise)
    # Of "re_prob" the nearest known key, "grayscale_prob", is another one than the key that is meant.
    is_near = near != otherwise and (not meant or meant.rpartition(".")[0] != table)
    return f"Write {meant} for it." if meant and not is_near else near


def places_of(name: str, model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of all keys of a recipe with this last name, tables left out."""
    for field, info in model.model_fields.items():
        inner: Any = TeacherTable if field == "teacher" else info.annotation
        path = f"{prefix}teacher.N" if field == "teacher" else f"{prefix}{field}"
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from places_of(name, inner, f"{path}.")
        elif field == name:
            yield path
