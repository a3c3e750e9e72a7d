"""What the demo measures of each of its models: retrieval, neighbours, size and speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.evals.runner import Settings
from distill.evals.runner import run as evaluate
from distill.ship.image_text import ImageText
from distill.timing import images_per_second
from launch.process import return_freed_memory
from students import catalogue

ENGLISH = ("en",)
NEIGHBOURS = 5  # that vote for an emoji's group


def measure(run: Path, model: ImageText, other_names: list[Path], cache: Path) -> dict[str, Any]:
    """The scores of a run.

    Args:
        run: its folder; its recipe names the test set.
        model: its students.
        other_names: shards of training emoji with names that were not trained on.
        cache: the folder for embeddings.

    Returns:
        "unseen", "other_names" and "neighbours": each a result of :func:`distill.evals.runner.run`; "parameters" of
        the image tower, "text_parameters", "gflops" of one image and "images_per_second".
    """
    settings = Settings(cache=cache)

    def result(task: str, **options: Any) -> dict[str, Any]:
        return dict(evaluate(run, [task], options, settings)["results"][0])

    side = model.config.image.image_size
    scores = {
        "unseen": result("retrieval", languages=ENGLISH),
        "other_names": result("retrieval", data=tuple(map(str, other_names)), languages=ENGLISH),
        "neighbours": result("knn", k=NEIGHBOURS),
        "parameters": sum(p.numel() for p in model.image.parameters()),
        "text_parameters": sum(p.numel() for p in model.text.parameters()) if model.text else 0,
        "gflops": catalogue.gflops(model.image, side),
        "images_per_second": images_per_second(model.encode_image, side, model.device),
    }
    return_freed_memory()
    return scores


def compare(run: Path, other: Path, cache: Path) -> dict[str, Any]:
    """The paired differences of a run's retrieval on unseen emoji from another run's."""
    settings = Settings(cache=cache, against=str(other))
    return dict(evaluate(run, ["retrieval"], {"languages": ENGLISH}, settings)["results"][0]["differences"])
