"""Every task of ``distill evaluate``, compared with its definition in plain NumPy on the model's own embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import COLOURS, RECIPE, SHAPES, distill, encoded, picture, write_tar

import distill as package
from distill.errors import UserError
from distill.evals.subject import OpenOptions, open_subject


def write_labelled(path: Path, numbers: range, colours: int = 4) -> Path:
    """A shard of drawings with captions in two languages, their shape as class and their colour as another one."""
    members = []
    for n in numbers:
        shape, colour = SHAPES[n % 4], COLOURS[n // 4 % colours]
        about = {"label": n % 4, "class": shape, "colour": colour, "captions": {"de": f"{shape} in {colour}"}}
        members += [
            (f"{n:05d}.png", encoded(picture(shape, colour, n))),
            (f"{n:05d}.txt", f"a {colour} {shape}".encode()),
        ]
        members += [(f"{n:05d}.json", json.dumps(about).encode())]
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tar(path, members)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run and its export, with shards of four classes."""
    folder = tmp_path_factory.mktemp("tasks")
    write_labelled(folder / "shards" / "train-000000.tar", range(96))
    write_labelled(folder / "shards" / "test-000000.tar", range(96, 160))
    (folder / "recipe.toml").write_text(RECIPE.format(shards=folder / "shards" / "train-000000.tar"))
    words = ("--set", "train.steps=8", "--set", f"data.eval={folder / 'shards' / 'test-000000.tar'}")
    distill("train", "recipe.toml", "--out", "run", *words, cwd=folder)
    distill("export", "run", "--out", "export", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def rows(home: Path) -> dict[str, Any]:
    """The export's embeddings by the Python API, apart from everything in distill.evals."""
    model = package.load(home / "export")
    found: dict[str, Any] = {"temperature": model.config.temperature, "model": model}
    for split, numbers in (("train", range(96)), ("test", range(96, 160))):
        pictures = [picture(SHAPES[n % 4], COLOURS[n // 4 % 4], n) for n in numbers]
        found[split] = model.encode_image(pictures).numpy()
        found[f"{split} labels"] = np.array([n % 4 for n in numbers])
    found["classes"] = model.encode_text(list(SHAPES)).numpy()
    return found


def measured(home: Path, task: str, **options: Any) -> dict[str, Any]:
    # The names alone: more would not fit into the eight tokens that the text tower reads.
    return package.evaluate(home / "export", task, {"templates": "name", "data": str(home / "shards")} | options)


def test_zero_shot_is_the_nearest_class_text(home: Path, rows: dict[str, Any]) -> None:
    found = measured(home, "zero_shot")
    labels, scores = rows["test labels"], rows["test"] @ rows["classes"].T
    hits = scores.argmax(axis=1) == labels
    assert found["metrics"]["top1"] == pytest.approx(hits.mean())
    assert found["chance"]["top1"] == 0.25 and found["classes"] == 4 and "top5" not in found["metrics"]
    by_class = {one["class"]: one["accuracy"] for one in found["details"]["by_class"]}
    assert by_class == {shape: pytest.approx(hits[labels == k].mean()) for k, shape in enumerate(SHAPES)}
    low, high = found["intervals"]["top1"]
    assert low <= found["metrics"]["top1"] <= high and low < high


def test_classes_whose_texts_are_cut_off_before_they_differ_are_counted(home: Path) -> None:
    found = measured(home, "zero_shot", templates="plain")  # "a photo of a circle." has more than eight tokens
    assert found["details"]["classes_with_equal_texts"] == 4 and found["metrics"]["top1"] == 0


def test_synonyms_and_templates_are_averaged(home: Path, rows: dict[str, Any], tmp_path: Path) -> None:
    names = {"circle": ["disc", "ring"], "square": ["box"], "triangle": [], "cross": ["plus"]}
    (tmp_path / "classes.json").write_text(json.dumps(names))
    (tmp_path / "templates.txt").write_text("a {c}\n\nmany {} here\n")
    found = measured(
        home, "zero_shot", classes=str(tmp_path / "classes.json"), templates=str(tmp_path / "templates.txt")
    )
    vectors = []
    for name, synonyms in names.items():
        texts = [t.format(n) for t in ("a {}", "many {} here") for n in (name, *synonyms)]
        mean = rows["model"].encode_text(texts).numpy().mean(axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    hits = (rows["test"] @ np.stack(vectors).T).argmax(axis=1) == rows["test labels"]
    assert found["metrics"]["top1"] == pytest.approx(hits.mean())


def test_prompt_search_keeps_the_template_that_is_best_on_training_images(home: Path, tmp_path: Path) -> None:
    (tmp_path / "templates.txt").write_text("{}\na photo of a {}.\nnothing but {}\n")
    options = {"templates": str(tmp_path / "templates.txt"), "search": 1}
    found = measured(home, "zero_shot", **options)
    alone = {}
    for template in ("{}", "a photo of a {}.", "nothing but {}"):
        (tmp_path / "one.txt").write_text(template)
        on_train = {"data": str(home / "shards" / "train-000000.tar"), "templates": str(tmp_path / "one.txt")}
        alone[template] = package.evaluate(home / "export", "zero_shot", **on_train)["metrics"]["top1"]
    (chosen,) = found["details"]["templates"]
    assert alone[chosen] == max(alone.values())


def test_nearest_neighbours_vote_by_similarity(home: Path, rows: dict[str, Any]) -> None:
    found = measured(home, "knn", k=7, temperature=0.1)
    similarities = rows["test"] @ rows["train"].T
    votes = np.zeros((64, 4))
    for row, own in enumerate(similarities):
        for i in np.argsort(-own)[:7]:
            votes[row, rows["train labels"][i]] += np.exp(own[i] / 0.1)
    assert found["metrics"]["accuracy"] == pytest.approx((votes.argmax(axis=1) == rows["test labels"]).mean())


def pre_logits(home: Path, split: str) -> np.ndarray:
    import torch

    model, numbers = package.load(home / "export"), range(96) if split == "train" else range(96, 160)
    pixels = torch.stack([model.pixels(picture(SHAPES[n % 4], COLOURS[n // 4 % 4], n)) for n in numbers])
    with torch.no_grad():
        net: Any = model.image.net
        features = net.forward_features((pixels.float() / 255 - model.image.mean) / model.image.std)
        return net.forward_head(features, pre_logits=True).numpy()


def test_linear_and_few_shot_learn_from_pre_logits(home: Path, rows: dict[str, Any]) -> None:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    train, test = pre_logits(home, "train"), pre_logits(home, "test")
    assert train.shape[1] == 48  # the width before the projection to 32
    scaler = StandardScaler().fit(train)
    one_hot = np.where(rows["train labels"][:, None] == np.arange(4), 1.0, -1.0)
    ridge = Ridge(alpha=1.0).fit(scaler.transform(train), one_hot)
    hits = ridge.predict(scaler.transform(test)).argmax(axis=1) == rows["test labels"]
    assert measured(home, "linear", method="ridge", l2=1.0)["metrics"]["accuracy"] == pytest.approx(
        hits.mean(), abs=0.02
    )
    logistic = LogisticRegression(C=1.0, max_iter=1000).fit(train, rows["train labels"])
    hits = logistic.predict(test) == rows["test labels"]
    assert measured(home, "linear")["metrics"]["accuracy"] == pytest.approx(hits.mean(), abs=0.02)
    # With every image there is as a shot, it is the linear probe.
    every = measured(home, "few_shot", shots=[1, 24], seeds=2, l2=1.0)
    assert (
        every["metrics"]["accuracy_24shot"] == measured(home, "linear", method="ridge", l2=1.0)["metrics"]["accuracy"]
    )
    assert [point["x"] for point in every["details"]["curve"]] == [1, 24]


def test_calibration_is_of_the_probabilities_at_the_learned_temperature(home: Path, rows: dict[str, Any]) -> None:
    found = measured(home, "calibration", bins=10)
    logits = rows["test"].astype(np.float64) @ rows["classes"].T / rows["temperature"]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = rows["test labels"]
    right = probabilities[np.arange(64), labels]
    assert found["metrics"]["nll"] == pytest.approx(-np.log(right).mean(), rel=1e-5)
    assert found["metrics"]["brier"] == pytest.approx(((probabilities - np.eye(4)[labels]) ** 2).sum(axis=1).mean())
    sure, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    places = np.minimum((sure * 10).astype(int), 9)
    gaps = [abs(hits[places == b].mean() - sure[places == b].mean()) * (places == b).mean() for b in set(places)]
    assert found["metrics"]["ece"] == pytest.approx(sum(gaps), rel=1e-4)
    assert sum(one["count"] for one in found["details"]["bins"]) == 64
    assert found["higher_is_better"]["ece"] is False


def test_outliers_are_told_by_the_largest_probability(home: Path, rows: dict[str, Any], tmp_path: Path) -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    from PIL import Image

    noise = [Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(20)]
    write_tar(tmp_path / "noise.tar", [(f"{k}.png", encoded(image)) for k, image in enumerate(noise)])
    found = measured(home, "ood", outliers=str(tmp_path / "noise.tar"))
    scores = []
    for images in (rows["test"], rows["model"].encode_image(noise).numpy()):
        logits = images.astype(np.float64) @ rows["classes"].T / rows["temperature"]
        scores.append((np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).max(axis=1))
    truth = np.repeat([1, 0], [64, 20])
    assert found["metrics"]["auroc"] == pytest.approx(roc_auc_score(truth, np.concatenate(scores)), abs=1e-6)
    assert found["outliers"] == 20 and found["chance"]["auroc"] == 0.5


def test_robustness_is_zero_shot_on_corrupted_pictures(home: Path, rows: dict[str, Any]) -> None:
    from distill.metrics import corruptions

    found = measured(home, "robustness", corruptions=["contrast", "pixelate"], severities=[5])
    for one in found["details"]["by_corruption"]:
        changed = [
            corruptions.apply(one["corruption"], picture(SHAPES[n % 4], COLOURS[n // 4 % 4], n), 5, f"{n:05d}")
            for n in range(96, 160)
        ]
        images = rows["model"].encode_image(changed).numpy()
        hits = (images @ rows["classes"].T).argmax(axis=1) == rows["test labels"]
        assert one["accuracy"] == pytest.approx(hits.mean())
    of_all = [one["accuracy"] for one in found["details"]["by_corruption"]]
    assert found["metrics"]["corrupted_accuracy"] == pytest.approx(np.mean(of_all))


def test_fidelity_compares_with_the_teacher_of_the_recipe(home: Path) -> None:
    found = measured(home, "fidelity", k=3)
    metrics = found["metrics"]
    assert found["details"]["teacher"] == "packaged/efficientnet_lite0"
    assert metrics["retention_knn"] == pytest.approx(metrics["student_knn"] / metrics["teacher_knn"])
    assert metrics["student_knn"] == measured(home, "knn", k=3)["metrics"]["accuracy"]
    teacher = package.evaluate("packaged/efficientnet_lite0", "knn", data=str(home / "shards"), k=3)
    assert metrics["teacher_knn"] == teacher["metrics"]["accuracy"]
    # A teacher is wholly like itself.
    own = package.evaluate(
        "packaged/efficientnet_lite0", "fidelity", data=str(home / "shards"), teacher="packaged/efficientnet_lite0"
    )["metrics"]
    assert (
        own["cka"] == pytest.approx(1) and own["agreement"] == own["neighbour_overlap"] == own["retention_linear"] == 1
    )


def test_retrieval_by_language_is_that_of_its_captions_alone(home: Path) -> None:
    members = []
    for n in range(24):
        shape, colour = SHAPES[n % 4], COLOURS[n // 4]
        captions = {"en": f"a {colour} {shape}", "de": f"{shape}, {colour}"}
        members += [
            (f"{n}.png", encoded(picture(shape, colour, n))),
            (f"{n}.json", json.dumps({"captions": captions}).encode()),
        ]
    write_tar(home / "two.tar", members)
    found = package.evaluate(home / "export", "retrieval", data=str(home / "two.tar"))
    by_language = found["details"]["by_language"]
    assert set(by_language) == {"de", "en"} and by_language["de"]["texts"] == 24
    alone = package.evaluate(home / "export", "retrieval", data=str(home / "two.tar"), languages="de")
    assert {name: by_language["de"][name] for name in alone["metrics"]} == alone["metrics"]


def test_everything_possible_is_made_where_no_task_is_named(home: Path) -> None:
    found = package.evaluate(home / "run")
    made, not_made = (
        {one["task"] for one in found["results"]},
        {one["task"]: one["reason"] for one in found["not_made"]},
    )
    assert made == {"retrieval", "zero_shot", "knn", "linear", "few_shot", "calibration", "fidelity"}
    assert "no head stands between" in not_made["alpha"] and "none of the classes" in not_made["ood"]
    table = distill("evaluate", "run", cwd=home).stdout
    assert "zero_shot on" in table and "Not made:" in table and "95 % interval" in table
    image_only = package.evaluate("packaged/efficientnet_lite0", data=str(home / "shards"))
    assert {one["task"] for one in image_only["results"]} == {"knn", "linear", "few_shot"}


def test_two_models_are_compared_on_the_same_samples(home: Path) -> None:
    found = package.evaluate(home / "export", "knn", data=str(home / "shards"), against="packaged/efficientnet_lite0")
    other = package.evaluate("packaged/efficientnet_lite0", "knn", data=str(home / "shards"))
    difference = found["differences"]["accuracy"]
    assert difference["value"] == pytest.approx(found["metrics"]["accuracy"] - other["metrics"]["accuracy"])
    assert difference["low"] <= difference["value"] <= difference["high"]
    same = package.evaluate(home / "export", "retrieval", data=str(home / "shards"), against=home / "run")
    assert {tuple(one.values()) for one in same["differences"].values()} == {(0.0, 0.0, 0.0)}


def test_a_run_is_compared_with_its_teacher_where_both_can_be_measured(home: Path) -> None:
    """With the run's own training images, which the teacher does not name, and only in the tasks of images."""
    found = package.evaluate(home / "run", ["knn", "linear"], against="packaged/efficientnet_lite0")
    train, test = (str(home / "shards" / f"{split}-000000.tar") for split in ("train", "test"))
    teacher = package.evaluate("packaged/efficientnet_lite0", "knn", data=test, train=train)
    knn = found["results"][0]
    expected = knn["metrics"]["accuracy"] - teacher["metrics"]["accuracy"]
    assert knn["differences"]["accuracy"]["value"] == pytest.approx(expected)
    every = {
        one["task"]: "differences" in one for one in package.evaluate(home / "run", against=home / "export")["results"]
    }
    assert all(every.values())
    images = package.evaluate(home / "run", against="packaged/efficientnet_lite0")["results"]
    assert {one["task"] for one in images if "differences" in one} == {"knn", "linear", "few_shot"}
    with pytest.raises(UserError, match="no text tower"):
        package.evaluate(home / "run", "retrieval", against="packaged/efficientnet_lite0")


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images each forward of students embeds, while a test runs."""
    from distill.evals.subjects.students import Students

    counts: list[int] = []
    original = Students.images

    def counted(self: Students, inputs: Any) -> Any:
        counts.append(len(inputs[0]))
        return original(self, inputs)

    monkeypatch.setattr(Students, "images", counted)
    yield counts


def test_a_data_set_is_embedded_once_for_all_tasks_and_all_later_calls(
    home: Path, tmp_path: Path, embedded: list[int]
) -> None:
    words = {"data": str(home / "shards"), "cache": tmp_path / "kept"}
    first = package.evaluate(home / "export", ["zero_shot", "knn", "retrieval", "linear"], **words)
    assert sum(embedded) == 96 + 64
    again = package.evaluate(home / "export", ["zero_shot", "knn", "retrieval", "linear", "few_shot"], **words)
    assert sum(embedded) == 96 + 64 and again["results"][:4] == first["results"]
    for file in (tmp_path / "kept").iterdir():
        file.write_bytes(file.read_bytes()[:100])  # damaged: computed again, never believed
    assert package.evaluate(home / "export", "knn", **words) == first["results"][1]
    assert sum(embedded) == 2 * (96 + 64)
    package.evaluate(home / "export", "knn", data=words["data"], cache=False)
    assert sum(embedded) == 3 * (96 + 64)


def test_a_model_of_open_clip_is_measured_with_its_own_preprocessing(home: Path, tmp_path: Path) -> None:
    import open_clip
    import torch

    torch.manual_seed(0)
    config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": "bilinear"},
    }
    model = open_clip.CLIP(**{k: v for k, v in config["model_cfg"].items()})  # type: ignore[arg-type]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    name = f"open_clip/local-dir:{tmp_path}"
    found = package.evaluate(name, "zero_shot", data=str(home / "shards"), templates="name")
    theirs, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    pictures = [picture(SHAPES[n % 4], COLOURS[n // 4 % 4], n) for n in range(96, 160)]
    with torch.no_grad():
        images = theirs.eval().encode_image(torch.stack([prepare(one) for one in pictures]), normalize=True)
        texts = theirs.encode_text(tokenizer(list(SHAPES)), normalize=True)
    hits = (images @ texts.T).argmax(dim=1).numpy() == np.array([n % 4 for n in range(96, 160)])
    assert found["metrics"]["top1"] == pytest.approx(hits.mean())


def test_data_without_classes_are_not_read_as_a_whole_to_find_that_out(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [(f"{n}.png", encoded(picture("circle", "red", n))) for n in range(2)]
    write_tar(tmp_path / "a.tar", members + [(f"{n}.txt", b"a") for n in range(2, 1000)] + [("999.cls", b"1")])
    from distill.evals.layouts import shards

    read: list[int] = []
    original = shards.json_of
    monkeypatch.setattr(shards, "json_of", lambda samples, i: read.append(i) or original(samples, i))
    from distill.data.shards import Shards

    with pytest.raises(UserError, match="No sample has a class"):
        shards.read_classes(Shards.open([str(tmp_path / "a.tar")]), [tmp_path / "a.tar"], "", "", "")
    assert len(read) <= shards.PROBES


def test_few_shots_embed_only_what_they_learn_from_of_many_images(
    home: Path, embedded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill.evals import few_shot

    expected = package.evaluate(home / "export", "few_shot", shots=[1], seeds=2, data=str(home / "shards"))
    embedded.clear()
    monkeypatch.setattr(few_shot, "MANY", 50)
    found = package.evaluate(home / "export", "few_shot", shots=[1], seeds=2, data=str(home / "shards"), cache=False)
    assert found == expected
    assert 64 + 4 <= sum(embedded) <= 64 + 2 * 4


def test_a_model_s_own_training_set_is_not_embedded_if_it_is_large(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill.evals import session

    monkeypatch.setattr(session, "MANY", 95)
    with pytest.raises(UserError, match="trained on 96 samples, too many"):
        package.evaluate(home / "run", "knn")
    train = str(home / "shards" / "train-000000.tar")
    assert package.evaluate(home / "run", "knn", train=train)["images"] == 64


@pytest.mark.parametrize(
    "task, options, said",
    [
        ("few_shot", {"shots": [25]}, "has 24 training samples, and 25 of each are asked for"),
        ("zero_shot", {"label": "nothing"}, "No sample has a class"),
        ("zero_shot", {"label": "class", "classes": "two.txt"}, "are not among the 2"),
        ("zero_shot", {"label": "label", "classes": "two.txt"}, "class number 3, and 2 classes have names"),
        ("zero_shot", {"classes": "nowhere.txt"}, "nowhere.txt cannot be read"),
        ("zero_shot", {"templates": "bad.txt"}, "has no place for the class"),
        ("zero_shot", {"data": "one-class.tar"}, "have one class"),
        ("zero_shot", {"data": "empty"}, "holds no .tar shard"),
        ("retrieval", {"languages": "fr"}, "No caption says that its language is fr"),
        ("knn", {"data": "shards/test-000000.tar"}, "no train split"),
        ("knn", {"k": 1000}, "fewer than k = 1000"),
        ("ood", {}, "images of none of the classes"),
        ("robustness", {"corruptions": "rain"}, "'rain' is none of"),
        ("alpha", {}, "Only a run has a teacher"),
        ("fidelity", {"teacher": "packaged/nothing"}, "packaged/nothing"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_embedded(
    home: Path, task: str, options: dict[str, Any], said: str, embedded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    (home / "two.txt").write_text("circle\nsquare\n")
    (home / "bad.txt").write_text("no place\n")
    (home / "empty").mkdir(exist_ok=True)
    if not (home / "one-class.tar").exists():
        members = [(f"{n}.png", encoded(picture("circle", "red", n))) for n in range(3)]
        write_tar(home / "one-class.tar", [*members, *((f"{n}.cls", b"0") for n in range(3))])
    with pytest.raises(UserError, match=said):
        package.evaluate("export", task, options, **({"data": "shards"} if "data" not in options else {}), cache=False)
    assert not embedded


def test_an_image_encoder_has_no_zero_shot_accuracy(home: Path) -> None:
    with pytest.raises(UserError, match="no text tower|embeds no texts"):
        package.evaluate("packaged/efficientnet_lite0", "zero_shot", data=str(home / "shards"))


def test_a_subject_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match="neither an export nor a run|nowhere"):
        open_subject("nowhere", OpenOptions())
