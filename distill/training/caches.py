"""The teacher caches of a run, from a resolved recipe."""

from __future__ import annotations

from distill.data.cache import Cache
from distill.data.caption_cache import CaptionCache
from distill.data.captions import Captions
from distill.data.shards import Shards
from distill.data.teacher_inputs import CachedCaptions, CachedOutputs, TeacherInput
from distill.data.view_cache import ViewCache
from distill.data.views import Views
from distill.resolved import ResolvedRecipe, ResolvedTeacher


def views_of(resolved: ResolvedRecipe) -> Views:
    """The augmentation settings of a run."""
    data = resolved.recipe.data
    return Views(data.crop, data.flip, resolved.rules.views, data.augment)


def caches_of(resolved: ResolvedRecipe) -> list[Cache]:
    """The caches of the teachers that have one, in the order of ``resolved.cached``."""
    return [cache_of(resolved, teacher) for teacher in resolved.cached]


def cache_of(resolved: ResolvedRecipe, teacher: ResolvedTeacher) -> ViewCache | CaptionCache:
    """The cache of a teacher."""
    if teacher.card.modality == "text":
        captions = Captions.from_table(resolved.recipe.data)
        return CaptionCache(teacher.table, teacher.card, captions, teacher.outputs)
    return ViewCache(teacher.table, teacher.card, views_of(resolved), teacher.outputs)


def cached_input(resolved: ResolvedRecipe, teacher: ResolvedTeacher, shards: Shards) -> TeacherInput:
    """What a batch holds of a teacher that has a cache."""
    cache = cache_of(resolved, teacher)
    return CachedCaptions(cache, shards) if isinstance(cache, CaptionCache) else CachedOutputs(cache, shards)
