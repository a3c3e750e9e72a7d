"""The registry of teachers: cards agree with the networks, and public checkpoints load in their original layout."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from conftest import distill, noise, random_state
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

import teachers
from distill.cli.teachers import teachers as commands
from distill.errors import UserError

LITE0 = "packaged/efficientnet_lite0"
HUB = [card for card in teachers.cards() if card.source.startswith("Hugging Face")]


def meta(card: teachers.Card, **options: Any) -> nn.Module:
    """The network of a timm card on the meta device, without memory for its weights."""
    try:
        with torch.device("meta"):
            return timm.create_model(card.arch, **{**card.options, **options}).eval()
    except (RuntimeError, NotImplementedError):  # an operation has no meta implementation in an older torch
        return timm.create_model(card.arch, **{**card.options, **options}).eval()


# The content of cards.


@pytest.mark.parametrize("card", HUB, ids=lambda card: card.name)
def test_a_hub_card_agrees_with_timm(card: teachers.Card) -> None:
    """Mean, std, image size, classes and repository as in timm's configuration; width and parameters as counted."""
    config, net = timm.get_pretrained_cfg(card.arch), meta(card, num_classes=0)
    assert config is not None and config.has_weights
    with torch.no_grad():
        width = net(torch.zeros(1, *config.input_size, device=next(net.parameters()).device)).shape[1]
    assert (card.width, card.parameters) == (width, sum(p.numel() for p in net.parameters()))
    assert (card.mean, card.std, card.interpolation) == (tuple(config.mean), tuple(config.std), config.interpolation)
    assert (card.image_size, card.fixed_size) == (config.input_size[-1], bool(config.fixed_input_size))
    assert (card.licence, card.source) == (config.license, f"Hugging Face hub: {config.hf_hub_id}")
    # A CLIP model's "classes" are the width of its projection.
    assert card.classes == (0 if card.name.startswith("web/") else config.num_classes)


def test_every_group_has_cards_and_every_card_is_complete() -> None:
    groups = {card.name.split("/")[0] for card in teachers.cards()}
    assert groups >= {"in21k", "places", "jft", "web", "packaged"}
    names = [card.name for card in teachers.cards()]
    assert len(set(names)) == len(names) > 80
    for card in teachers.cards():
        assert card.width and card.parameters and card.data and card.licence and card.source and card.paper, card.name
        assert card.checked and (card.image_size > 0) == (card.modality == "image"), card.name
        again = pickle.loads(pickle.dumps(card))
        # functools.partial objects are equal only if they are identical.
        assert dataclasses.replace(again, file=card.file, read=card.read) == card


def test_teachers_list_and_show_work_offline() -> None:
    listed = json.loads(distill("teachers", "list", "--json").stdout)
    assert [card["name"] for card in listed] == [card.name for card in teachers.cards()]
    for card in listed:  # in this process: 84 commands would take minutes
        shown = CliRunner().invoke(commands, ["show", card["name"], "--json"])
        assert json.loads(shown.stdout) == card
    assert "width" in distill("teachers", "show", listed[0]["name"]).stdout
    some = distill("teachers", "list", "web", "siglip", "--max-parameters", "100M").stdout.splitlines()
    assert len(some) >= 2 and all("siglip" in line for line in some)
    in21k = json.loads(distill("teachers", "list", "in21k", "--max-parameters", "30M", "--json").stdout)
    assert in21k and all(c["parameters"] <= 30e6 and c["name"].startswith("in21k/") for c in in21k)
    assert {c["name"] for c in json.loads(distill("teachers", "list", "--loaded", "--json").stdout)} == {
        card.name for card in teachers.cards() if card.checked == "loaded"
    }
    assert "No card is like that" in distill("teachers", "list", "nosuchword").stderr
    for card in listed[::20]:
        (line,) = [
            line
            for line in distill("teachers", "list", card["name"]).stdout.splitlines()
            if card["name"] + " " in line
        ]
        assert all(str(card[fact]) in line for fact in ("width", "image_size", "data", "licence", "paper", "checked"))
    assert distill("teachers", "list", "--max-parameters", "many", status=2).stderr.startswith("Error: 'many' is no")


def test_a_listing_says_what_was_tried_with_each_card() -> None:
    """And the page on teachers what the words mean, so that nobody mistakes a checked layout for a tried teacher."""
    page = (Path(__file__).parent.parent / ".github" / "docs" / "teachers.md").read_text()
    listed = json.loads(distill("teachers", "list", "--json").stdout)
    assert {card["checked"] for card in listed} == {"loaded", "layout", "configuration"}
    assert all(f"| `{checked}` |" in page for checked in ("loaded", "layout", "configuration"))
    for checked in ("loaded", "layout", "configuration"):
        some = json.loads(distill("teachers", "list", "--checked", checked, "--json").stdout)
        assert [card["name"] for card in some] == [c.name for c in teachers.cards() if c.checked == checked]


# Cards of other packages.

CARDS_OF_ANOTHER_PACKAGE = """
from types import SimpleNamespace

import teachers

def card(name):
    return teachers.Card(name=name, arch="resnet18", width=512, image_size=224)

one, several = card("mine/one"), [card("mine/two"), card("mine/three")]
holder, nothing = SimpleNamespace(CARDS=(card("mine/four"),)), 5
CARDS = [card("mine/five")]
twice, nameless = card("jft/efficientnet_b0"), card("five")
"""


def another_package(folder: Path, **entry_points: str) -> None:
    """Write a package with these entry points into ``folder``, as pip would install it."""
    info = folder / "my_teachers-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "my_teachers.py").write_text(CARDS_OF_ANOTHER_PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-teachers\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[distill.teachers]", *lines, ""]))


def test_other_packages_add_cards_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [card.name for card in teachers.cards()]
    entry_points = {"one": "my_teachers:one", "several": "my_teachers:several", "holder": "my_teachers:holder"}
    another_package(tmp_path, **entry_points, module="my_teachers", again="my_teachers:one")
    monkeypatch.syspath_prepend(tmp_path)
    listed = json.loads(CliRunner().invoke(commands, ["list", "mine/", "--json"]).stdout)
    assert [card["name"] for card in listed] == [f"mine/{n}" for n in ("five", "four", "one", "three", "two")]
    assert teachers.card("mine/four").arch == "resnet18"
    assert [card.name for card in teachers.cards() if not card.name.startswith("mine/")] == before
    with pytest.raises(LookupError, match="Did you mean mine/three"):
        teachers.card("mine/thre")


@pytest.mark.parametrize(
    "entry_point, error",
    [
        ("my_teachers:twice", "are called 'jft/efficientnet_b0': one of teachers.jft and one of my-teachers"),
        ("my_teachers:nothing", "is neither a Card, nor a sequence of them, nor an object with CARDS"),
        ("my_teachers:nameless", "my-teachers (my_teachers:nameless) is called 'five'. Name it GROUP/NAME"),
        ("my_teachers:absent", "The teachers of my-teachers (my_teachers:absent) cannot be loaded"),
        ("no_such_module", "The teachers of my-teachers (no_such_module) cannot be loaded"),
    ],
)
def test_invalid_cards_of_other_packages_are_refused_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry_point: str, error: str
) -> None:
    another_package(tmp_path, point=entry_point)
    monkeypatch.syspath_prepend(tmp_path)
    for words in (["list"], ["show", "jft/efficientnet_b0"]):
        found = CliRunner().invoke(commands, words).exception
        assert isinstance(found, UserError) and error in str(found)


# Public checkpoints in the layout of their publication.


def places_file(arch: str, path: Path) -> dict[str, torch.Tensor]:
    """Write a file like those of CSAIL's training script of 2017; return the weights under timm's names."""
    state = random_state(timm.create_model(arch, num_classes=365))
    theirs = OrderedDict()
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue  # torch before 0.4.1 did not have it
        old = key
        if arch.startswith("densenet") and ".denselayer" in key:
            for layer in ("norm", "conv"):
                for number in "12":
                    old = old.replace(f".{layer}{number}.", f".{layer}.{number}.")
        theirs[f"module.{old}"] = value
    checkpoint = {"epoch": 90, "arch": arch, "state_dict": theirs, "best_prec1": torch.tensor(54.65)}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    return state


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "densenet161"])
def test_places_networks_load_from_files_in_their_published_layout(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    card, folder = teachers.card(f"places/{arch}"), tmp_path / "hub" / "checkpoints"
    with pytest.raises(ConnectionError, match=f"Fetch http://places2.*/{arch}_places365.pth.tar and put it into "):
        teachers.load(card)
    folder.mkdir(parents=True)
    state = places_file(arch, folder / f"{arch}_places365.pth.tar")
    own = timm.create_model(arch, num_classes=365)
    own.load_state_dict(state)
    x = (noise(2, 224).float() / 255 - torch.tensor(card.mean).view(3, 1, 1)) / torch.tensor(card.std).view(3, 1, 1)
    with torch.no_grad():
        assert_close(
            teachers.load(card, outputs=("logits",))(noise(2, 224))["logits"], own.eval()(x), rtol=1e-4, atol=1e-4
        )
        teacher = teachers.load(card)
        assert_close(teacher(noise(2, 224))["embedding"], own.forward_head(own.forward_features(x), pre_logits=True))
    assert sum(p.numel() for p in teacher.parameters()) == card.parameters


def hub_cache(card: teachers.Card, home: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Write a Hugging Face cache like that after downloading the card's repository, with random weights."""
    repository, revision = card.source.removeprefix("Hugging Face hub: "), "0123456789abcdef0123456789abcdef01234567"
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    for part in ("refs", f"snapshots/{revision}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    state = random_state(timm.create_model(card.arch, **options))
    save_file(state, folder / "snapshots" / revision / "model.safetensors", metadata={"format": "pt"})
    return state


LOAD = """
import sys, torch, teachers
for name in sys.argv[2:]:
    card = teachers.card(name)
    torch.manual_seed(0)
    x = torch.randint(256, (1, 3, card.image_size, card.image_size), dtype=torch.uint8)
    torch.save([x, teachers.load(card)(x)["embedding"]], f"{sys.argv[1]}/{card.arch}.pt")
"""
LAYOUT = [card.name for card in HUB if card.checked == "layout"]


def load_offline(home: Path, names: list[str]) -> subprocess.CompletedProcess[str]:
    """Load teachers in a new process, since the hub's client reads HF_HOME when it is imported."""
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", LOAD, str(home), *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_offline_the_error_about_a_hub_teacher_names_the_file_to_fetch(tmp_path: Path) -> None:
    card = teachers.card(LAYOUT[0])
    error = load_offline(tmp_path, [card.name]).stderr
    assert f"ConnectionError: The weights of '{card.name}' could not be had" in error
    assert f"fetch {card.url} elsewhere and name that file as teacher.N.weights" in error


@pytest.mark.parametrize("names", [LAYOUT[k : k + 4] for k in range(0, len(LAYOUT), 4)], ids=lambda names: names[0])
def test_hub_teachers_load_from_the_hubs_cache(names: list[str], tmp_path: Path) -> None:
    states = {name: hub_cache(teachers.card(name), tmp_path) for name in names}
    result = load_offline(tmp_path, names)
    assert not result.returncode, result.stderr
    for card in map(teachers.card, names):
        x, found = torch.load(tmp_path / f"{card.arch}.pt")
        net = timm.create_model(card.arch).eval()
        net.load_state_dict(states[card.name])
        net.reset_classifier(0)
        normalised = (x.float() / 255 - torch.tensor(card.mean).view(3, 1, 1)) / torch.tensor(card.std).view(3, 1, 1)
        with torch.no_grad():
            assert_close(found, net(normalised), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("card", [c for c in HUB if c.name.startswith("jft/")], ids=lambda c: c.name)
def test_the_jft_checkpoints_have_the_keys_of_timms_networks(card: teachers.Card) -> None:
    """Every size up to L2, on the meta device: spot checks of the names and shapes that the published files have."""
    keys = meta(card).state_dict()
    assert keys["classifier.weight"].shape == (1000, card.width)
    assert {"conv_stem.weight", "bn2.running_var", "blocks.6.0.se.conv_reduce.bias"} <= keys.keys()
