"""The README and the pages of ``.github/docs/``: every command and program in them runs, links lead somewhere, and the
generated pages are up to date.

Commands run as they are printed, in a folder with the files that they name, but for one thing: trainings are reduced
to a few steps of tiny towers (``REDUCED``), and eight processes to two.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import tomli_w
import write_reference_pages
from conftest import COLOURS, SHAPES, distill, encoded, picture, write_tar

from distill.recipe import apply_override, packaged

ROOT = Path(__file__).parent.parent
DOCS = ROOT / ".github" / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]

# What makes a training small enough for a test.
REDUCED = (
    *("data.image_size=32", "data.workers=0", "train.batch_size=8", "train.epochs=1"),
    *("teacher.0.image_size=64", "teacher.0.views=2"),
)
TEXT_TOWER = ("student.tokenizer.vocab=300", "student.text.dim=16", "student.text.depth=1", "student.text.heads=2")
# Not for LiT, where the teacher is the image tower.
OWN_IMAGE_TOWER = (
    "student.width=16",
    'student.image={ arch = "vit_tiny_patch16_224", img_size = 32, embed_dim = 16, depth = 1, num_heads = 2, '
    'class_token = false, global_pool = "map" }',
)
# Commands that need more than files, by how they begin, and where they run instead.
ELSEWHERE = {
    "pip install": ".ci/run",
    "distill train recipe.toml --set data.train=https://": "tests/test_stream_runs.py",
    "distill train first.toml --out /shared/first --hostfile": "tests/test_hosts.py",
    "torchrun": "tests/test_started_by_others.py",
    "srun": "tests/test_started_by_others.py",
    "mpirun": "tests/test_started_by_others.py",
    "sbatch": "tests/test_started_by_others.py",
}


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """The commands of a page, split into words, without comments."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def recipe_of_the_readme() -> dict[str, object]:
    """The parsed recipe ``first.toml``."""
    (text,) = blocks(README, "toml")
    return tomllib.loads(text)


def reduced(words: list[str]) -> list[str]:
    """A command with two processes instead of eight; a packaged recipe with the settings of ``REDUCED``."""
    words = ["2" if before == "--nproc" else word for before, word in zip(["", *words], words, strict=False)]
    if words[1] == "train" and words[2] in packaged():
        tower = () if words[2] == "lit" else OWN_IMAGE_TOWER
        text = () if words[2] == "image_only" else TEXT_TOWER
        words += [word for setting in (*REDUCED, *text, *tower) for word in ("--set", setting)]
    return words


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name: pictures, captions.csv, first.toml, and what the README makes."""
    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    rows = ["image,caption"]
    for i in range(60):
        shape, colour = SHAPES[i % 4], COLOURS[i // 4 % 8]
        picture(shape, colour, i).save(home / "photos" / f"{i:02d}.jpg")
        rows.append(f"photos/{i:02d}.jpg,a {colour} {shape}")
    (home / "captions.csv").write_text("\n".join(rows) + "\n")
    write_animals(home)
    tree = recipe_of_the_readme()
    for setting in (*REDUCED, *TEXT_TOWER, *OWN_IMAGE_TOWER):
        apply_override(tree, setting)
    (home / "first.toml").write_text(tomli_w.dumps(tree))
    run(README, home)
    return home


def write_animals(home: Path) -> None:
    """Labelled pictures: a folder with one folder a class, and the same in CLIP_benchmark's layout."""
    for split, numbers in (("train", range(24)), ("test", range(24, 40))):
        members = []
        for i in numbers:
            image = picture(SHAPES[i % 4], COLOURS[i // 4 % 8], i)
            (home / "animals" / split / SHAPES[i % 4]).mkdir(parents=True, exist_ok=True)
            image.save(home / "animals" / split / SHAPES[i % 4] / f"{i}.png")
            members += [(f"{i}.png", encoded(image)), (f"{i}.cls", str(i % 4).encode())]
        (home / "wds_animals" / split).mkdir(parents=True)
        write_tar(home / "wds_animals" / split / "0.tar", members)
    (home / "wds_animals" / "classnames.txt").write_text("\n".join(SHAPES) + "\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_program_of_a_page_runs(page: Path, home: Path) -> None:
    if page != README:  # its commands make what those of the other pages use, so the fixture has run them
        run(page, home)


def run(page: Path, home: Path) -> None:
    """Run the commands and then the programs of a page in a folder."""
    for words in commands(page):
        elsewhere = [place for start, place in ELSEWHERE.items() if " ".join(words).startswith(start)]
        if elsewhere:
            assert (ROOT / elsewhere[0]).is_file()
        else:
            assert words[0] == "distill", words
            distill(*reduced(words)[1:], cwd=home)
    with contextlib.chdir(home):
        for text in blocks(page, "python"):
            exec(compile(text, str(page), "exec"), {})


def test_the_readme_s_recipe_holds_as_it_is_printed(tmp_path: Path) -> None:
    (tmp_path / "first.toml").write_text(tomli_w.dumps(recipe_of_the_readme()))
    assert "three_towers" in distill("recipe", "check", tmp_path / "first.toml").stdout


@pytest.mark.parametrize("page", [*PAGES, ROOT / ".github" / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_relative_to(ROOT) and file.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], target


def test_every_page_can_be_reached_from_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert all(f".github/docs/{page.name}" in text for page in PAGES[1:])
    assert len(text.splitlines()) <= 250


def test_the_generated_pages_are_up_to_date() -> None:
    for name, text in write_reference_pages.pages().items():
        found = (DOCS / name).read_text(encoding="utf-8")
        assert found == text, f"{name} is out of date: run python tests/write_reference_pages.py"
