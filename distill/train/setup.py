"""From a recipe to the parts of a run: captions, pairs, teachers, model. One place builds each of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch

import teachers
from distill.config import Recipe
from distill.data.cache import Cache
from distill.data.captions import Captions, Tokenizer
from distill.data.order import Order
from distill.data.pairs import Pairs
from distill.data.shards import Shards
from distill.data.teacher_inputs import FromCache, FromCaptions, FromPixels, TeacherInput
from distill.data.transform import Drawing, Transform
from distill.data.views import Views
from distill.errors import as_user_errors
from distill.lookup import card_of, facts_of, objective_of, online, teachers_of
from distill.train import towers
from distill.train.model import Model


def views_of(recipe: Recipe) -> Views:
    """How a run draws views."""
    return Views(recipe.data.crop, recipe.data.flip)


def captions_of(recipe: Recipe) -> Captions:
    """How a run reads and draws captions."""
    data = recipe.data
    return Captions(data.caption_keys, data.languages, data.first_share, data.captions == "first")


def wants_logits(recipe: Recipe) -> bool:
    """Whether the teachers answer with their classes instead of their embeddings."""
    return objective_of(recipe).needs.space == "logits"


def caches_of(recipe: Recipe) -> list[Cache]:
    """The caches of the teachers that have one."""
    views, logits = views_of(recipe), wants_logits(recipe)
    return [Cache(table, card_of(table), views, logits) for table in teachers_of(recipe) if not online(table)]


def online_teachers(recipe: Recipe, device: torch.device) -> list[teachers.Teacher | None]:
    """For every teacher, itself if it runs online, None if its embeddings come from a cache."""
    logits = wants_logits(recipe)
    with as_user_errors():
        return [
            teachers.load(card_of(table), table.image_size, logits).to(device) if online(table) else None
            for table in teachers_of(recipe)
        ]


def live_teachers(caches: Sequence[Cache], device: torch.device) -> Callable[[int], teachers.Teacher]:
    """The teacher of cache k, loaded when it is first asked for."""

    @functools.cache
    def load(k: int) -> teachers.Teacher:
        cache = caches[k]
        with as_user_errors():
            return teachers.load(cache.card, cache.identity["image_size"], cache.logits).to(device)

    return load


def model_of(recipe: Recipe, vocab: int) -> Model:
    """The whole model as training starts with it; seed before calling."""
    student, facts = recipe.student, facts_of(recipe)
    image, text = towers.image_student(recipe), towers.text_student(recipe, vocab)
    model = Model(image, text, student.width, facts, objective_of(recipe).needs, student.temperature)
    if model.between:
        with as_user_errors():  # their heads ship inside the towers' projections
            image.projection()  # type: ignore[operator]
    towers.start(image, student.image, "image", recipe)
    towers.start(text, student.text, "text", recipe)
    return model


def pairs_of(recipe: Recipe, shards: Shards, tokenizer: Tokenizer) -> Pairs:
    """The training pairs of a run on shards."""
    order = Order(shards.counts, recipe.train.seed)
    return Pairs(shards, transform_of(recipe, tokenizer, shards), order, recipe.train.batch_size)


def transform_of(recipe: Recipe, tokenizer: Tokenizer, shards: Shards | None = None) -> Transform:
    """What makes batches of a run's samples; teachers have caches of shards only."""
    views, logits, inputs = views_of(recipe), wants_logits(recipe), list[TeacherInput]()
    for table in teachers_of(recipe):
        card = card_of(table)
        if card.modality == "text":
            with as_user_errors():
                inputs.append(FromCaptions(teachers.tokenizer(card)))
        elif online(table):
            inputs.append(FromPixels(table.image_size or card.image_size, card.interpolation))
        else:
            assert shards is not None, "streams have no cache, as check_objective has said"
            inputs.append(FromCache(Cache(table, card, views, logits), shards))
    drawing = Drawing(
        captions=captions_of(recipe),
        views=views,
        side=0 if recipe.on_teacher and recipe.student.image.beside is None else recipe.data.image_size,
        seed=recipe.train.seed,
        count=recipe.data.captions_at_once,
        # A network beside the locked teacher is given the teacher's own pixels, and keeps getting them once shipped.
        interpolation=card_of(recipe.teacher[0]).interpolation if recipe.on_teacher else "bicubic",
        mixup=objective_of(recipe).needs.mixup,
    )
    return Transform(tokenizer, inputs, drawing)
