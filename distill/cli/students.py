"""``distill students``."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from students import ImageStudent


@click.group()
def students() -> None:
    """List architectures for image students."""


@students.command("list")
@click.argument("words", nargs=-1)
@click.option("--max-parameters", metavar="N", help="At most so many weights, such as 10M.")
@click.option("--measure", is_flag=True, help="Measure images per second on this machine; takes seconds for each.")
@click.option("--device", help="Such as cuda or cpu, for --measure; default a GPU if there is one.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def list_(
    words: tuple[str, ...], max_parameters: str | None, measure: bool, device: str | None, as_json: bool
) -> None:
    """List architectures that are tested as image students; with WORDS, those with all of them in name or family.

    Every other timm model that ends in one linear layer can be student.image.arch, too. GFLOPs are 10⁹ operations
    for one image of the size named; most architectures take others, see data.image_size.

    \b
    Examples:
      distill students list --max-parameters 10M
      distill students list mobilenet --measure
    """
    from distill.cli.teachers import parse_count
    from students import IMAGE_STUDENTS

    maximum = parse_count(max_parameters) if max_parameters else float("inf")
    chosen = [
        one
        for one in IMAGE_STUDENTS
        if all(word.lower() in f"{one.arch} {one.family}".lower() for word in words) and one.parameters <= maximum
    ]
    if not chosen:
        print("No architecture is like that; 'distill students list' lists all.", file=sys.stderr)
    rows = []
    for one in chosen:
        rate = speed_of(one, device) if measure else None
        rows.append(dataclasses.asdict(one) | ({} if rate is None else {"images_per_second": round(rate, 1)}))
        if not as_json:
            speed = "" if rate is None else f"{rate:9,.0f} images/s"
            click.echo(
                f"{one.arch:32} {one.family:18} {one.image_size:4} px {one.parameters / 1e6:8.2f}M "
                f"{one.gflops:8.3g} GFLOPs{speed}  {one.note}".rstrip()
            )
    if as_json:
        click.echo(json.dumps(rows, indent=1))


def speed_of(student: ImageStudent, device: str | None) -> float:
    """How many images of its size the network embeds per second, with random weights in float32."""
    import torch

    from distill.timing import images_per_second
    from launch.group import default_device
    from students import ImageSpec, image_tower

    on = torch.device(device) if device else default_device()
    tower = image_tower(ImageSpec(arch=student.arch), 0, student.image_size).eval().to(on)
    return images_per_second(tower, student.image_size, on)
