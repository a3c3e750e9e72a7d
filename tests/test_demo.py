"""The demo: variants of an emoji are not split between training and test, and the command works at a small size."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import distill
from PIL import Image

import distill as package
from distill.data import emoji
from distill.demo import table

SMALL = ["--set", "train.steps=4", "--set", "teacher.0.views=1", "--set", "data.workers=0"]


def test_no_test_emoji_shares_its_concept_or_a_name_with_training() -> None:
    train, test = emoji.split(emoji.load_emojis())
    assert len(train) > 3000 and len(test) > 400
    assert not {e.concept for e in train} & {e.concept for e in test}
    assert not {n for e in train for n in e.names["en"]} & {n for e in test for n in e.names["en"]}
    assert {e.code for e in train} | {e.code for e in test} == {e.code for e in emoji.load_emojis()}
    # Pairs that are variants of one concept: skin tone, gender by sign, gender by person, direction.
    concept = {e.code: e.concept for e in train + test}
    for a, b in (
        ("1F44B", "1F44B-1F3FD"),
        ("1F3C3", "1F3C3-200D-2640"),
        ("1F468-200D-1F373", "1F469-1F3FF-200D-1F373"),
        ("1F3C3", "1F3C3-200D-27A1"),
        ("1F3C3", "1F3C3-1F3FB-200D-2642-200D-27A1"),
        ("1F474", "1F475-1F3FD"),
        ("1F466", "1F9D2"),
        ("1F934", "1FAC5"),
        ("1F385", "1F9D1-200D-1F384"),
        ("1F385", "1F936-1F3FB"),
        ("1F46A", "1F468-200D-1F469-200D-1F467-200D-1F466"),
        ("1F46B", "1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FF"),
        ("1F48F", "1F469-200D-2764-200D-1F48B-200D-1F468"),
        ("1F491", "1F468-200D-2764-200D-1F468"),
    ):
        assert concept[a] == concept[b]
    for a, b in (("1F44B", "1F91A"), ("1F48F", "1F491"), ("1F46A", "1F46B"), ("1F468", "1F466")):
        assert concept[a] != concept[b]


def test_a_name_that_is_held_back_is_no_caption_of_any_training_emoji() -> None:
    train, _ = emoji.split(emoji.load_emojis())
    kept, other_names = emoji.hold_back([e for e in train if not e.toned])
    assert [e.code for e in kept] == [e.code for e in train if not e.toned] and len(other_names) > 700
    captions = {emoji.letters(name) for one in kept for name in one.names["en"]}
    held = [one.names["en"] for one in other_names]
    assert all(len(names) == 1 and emoji.letters(names[0]) not in captions for names in held)
    named = {one.code: one for one in train}
    assert all(one.names["en"][0] in named[one.code].names["en"] for one in other_names)
    assert all(one.names["en"] for one in kept), "every emoji keeps a name"


def test_every_emoji_is_in_one_of_unicodes_groups() -> None:
    groups = {one.code: one.group for one in emoji.load_emojis()}
    assert len(set(groups.values())) == 9 and "Component" not in groups.values()
    known = {
        "1F436": "Animals & Nature",
        "1F34E": "Food & Drink",
        "1F1E9-1F1EA": "Flags",
        "1FAE9": "Smileys & Emotion",
    }
    assert known.items() <= groups.items()
    assert groups["1F44B-1F3FD"] == groups["1F44B"] == "People & Body", "with a skin tone, too"


def test_the_demo_trains_evaluates_and_exports(tmp_path: Path) -> None:
    small = ["--limit", "40", *SMALL, "--set", "train.batch_size=16"]
    result = distill("demo", "--out", tmp_path / "demo", "--json", *small)
    found = json.loads(result.stdout)
    assert found["train_images"] == 40 and found["test_images"] == 40
    assert found["teacher_difference"] <= 1e-4
    assert found == json.loads((tmp_path / "demo" / "results.json").read_text())
    scores = found["scores"]
    for method in ("three_towers", "scratch", "lit"):
        for kind in ("unseen", "other_names"):
            metrics = scores[method][kind]["metrics"]
            assert metrics.keys() == {*(f"{d}_r{k}" for d in ("i2t", "t2i") for k in (1, 5, 10)), "mean_r10"}
            assert all(0 <= value <= 1 for value in metrics.values())
        assert 0 <= scores[method]["neighbours"]["metrics"]["accuracy"] <= 1
    student, teacher = scores["three_towers"], scores["lit"]
    assert student["parameters"] <= teacher["parameters"] / 2 and student["gflops"] <= teacher["gflops"] / 4
    assert scores["scratch"]["parameters"] == student["parameters"]
    about = json.loads((tmp_path / "demo" / "runs" / "three_towers" / "run.json").read_text())
    assert about["initial_weights"]["image"]["copied"] > 50
    scratch = json.loads((tmp_path / "demo" / "runs" / "scratch" / "run.json").read_text())
    assert not scratch["initial_weights"], "from random weights"
    with Image.open(tmp_path / "demo" / "contact-sheet.png") as sheet:
        assert sheet.width > 600 and sheet.height > 600
    assert package.load(tmp_path / "demo" / "export").encode_text(["dog"]).shape[0] == 1
    report = (tmp_path / "demo" / "report.html").read_text()
    assert "of the teacher's k-NN accuracy" in report.replace("&#39;", "'"), "the groups are classes of the report"
    longer = ["--out", tmp_path / "longer", "--set", "train.steps=2"]
    distill("train", tmp_path / "demo" / "recipes" / "three_towers.toml", *longer)


def test_the_table_compares_only_what_its_size_can_carry() -> None:
    """A result written by hand: 3T above LiT beyond the interval, from scratch within it."""
    metrics = {f"{d}_r{k}": 0.2 for d in ("i2t", "t2i") for k in (1, 5, 10)} | {"mean_r10": 0.25}
    retrieval = {"metrics": metrics, "chance": metrics, "intervals": {"mean_r10": [0.2, 0.3]}, "images": 500}
    neighbours = {"metrics": {"accuracy": 0.6}, "chance": {"accuracy": 0.1}}
    one = {"unseen": retrieval, "other_names": retrieval, "neighbours": neighbours}
    one |= {"parameters": 1000, "gflops": 0.5, "images_per_second": 10.0}
    result = {
        "test_images": 277,
        "scores": {"three_towers": one, "scratch": one, "lit": one | {"parameters": 4000, "gflops": 4.0}},
        "differences": {
            "lit": {"unseen": {"mean_r10": {"value": 0.04, "low": 0.01, "high": 0.07}}},
            "scratch": {"unseen": {"mean_r10": {"value": -0.02, "low": -0.05, "high": 0.01}}},
        },
    }
    lines = table.table(result).splitlines()
    assert "3T minus LiT (the teacher): mean R@10 +4.0 points [+1.0, +7.0]" in lines
    assert "3T minus from scratch: mean R@10 -2.0 points [-5.0, +1.0]: not told apart" in lines
    assert any("keeps 100% of the teacher's 5-NN accuracy with 25% of its parameters" in line for line in lines)
    few = table.table(result | {"test_images": 40})
    assert "too few to compare" in few and "3T minus" not in few


def test_the_table_lists_methods_and_written_files(tmp_path: Path) -> None:
    small = ["--limit", "24", *SMALL, "--set", "train.batch_size=8"]
    out = distill("demo", "--out", tmp_path / "demo", *small).stdout
    for words in ("3T students", "from scratch", "LiT", "chance", "too few to compare", "5-NN", "Try next"):
        assert words in out
    for path in ("report.html", "export", "contact-sheet.png", "results.json", "runs", "recipes"):
        assert str(tmp_path / "demo" / path) in out and (tmp_path / "demo" / path).exists()
