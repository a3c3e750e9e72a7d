"""The registry: cards that are true, and public checkpoints in their real layout."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
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

LITE0 = "packaged/efficientnet_lite0"
HUB = [card for card in teachers.cards() if card.source.startswith("Hugging Face")]


def meta(card: teachers.Card, **options: Any) -> nn.Module:
    """A timm card's network without memory for its weights."""
    try:
        with torch.device("meta"):
            return timm.create_model(card.arch, **{**card.options, **options}).eval()
    except (RuntimeError, NotImplementedError):  # of an older torch
        return timm.create_model(card.arch, **{**card.options, **options}).eval()


# What a card says.


@pytest.mark.parametrize("card", HUB, ids=lambda card: card.name)
def test_a_hub_card_says_what_timm_says(card: teachers.Card) -> None:
    """Statistics, size, classes and repository against timm's configuration; width and weights against the network."""
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


def test_every_group_of_the_paper_is_there_and_every_card_is_whole() -> None:
    groups = {card.name.split("/")[0] for card in teachers.cards()}
    assert groups == {"in21k", "places", "jft", "web", "packaged"}
    names = [card.name for card in teachers.cards()]
    assert len(set(names)) == len(names) > 80
    for card in teachers.cards():
        assert card.width and card.parameters and card.data and card.licence and card.source and card.paper, card.name
        assert card.checked in ("loaded", "layout") and (card.image_size > 0) == (card.modality == "image"), card.name
        again = pickle.loads(pickle.dumps(card))
        # Partial functions are equal to themselves only.
        assert dataclasses.replace(again, file=card.file, read=card.read) == card


def test_the_commands_answer_offline() -> None:
    listed = json.loads(distill("teachers", "list", "--json").stdout)
    assert [card["name"] for card in listed] == [card.name for card in teachers.cards()]
    for card in listed:  # in this process: 84 commands would take minutes
        shown = CliRunner().invoke(commands, ["show", card["name"], "--json"])
        assert json.loads(shown.stdout) == card
    assert "width" in distill("teachers", "show", listed[0]["name"]).stdout
    some = distill("teachers", "list", "web", "siglip", "--max-parameters", "100M").stdout.splitlines()
    assert len(some) == 0 or all("siglip" in line for line in some)
    in21k = json.loads(distill("teachers", "list", "in21k", "--max-parameters", "30M", "--json").stdout)
    assert in21k and all(c["parameters"] <= 30e6 and c["name"].startswith("in21k/") for c in in21k)
    assert {c["name"] for c in json.loads(distill("teachers", "list", "--loaded", "--json").stdout)} == {
        card.name for card in teachers.cards() if card.checked == "loaded"
    }
    assert distill("teachers", "list", "--max-parameters", "many", status=2).stderr.startswith("Error: 'many' is no")


def test_the_readme_names_what_was_really_loaded() -> None:
    """Its table and the cards say the same, so that nobody mistakes a checked layout for a tried teacher."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    loaded = next(line for line in readme.splitlines() if line.startswith("| really loaded"))
    for card in teachers.cards():
        assert (f"`{card.name}`" in loaded) == (card.checked == "loaded"), card.name


# Public checkpoints, in the layout in which they are published.


def places_file(arch: str, path: Path) -> dict[str, torch.Tensor]:
    """A file as CSAIL's training script saved it in 2017; returns the weights under timm's names."""
    state = random_state(timm.create_model(arch, num_classes=365))
    theirs = OrderedDict()
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue  # torch before 0.4.1 had none
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
def test_places_networks_load_from_their_own_files(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert_close(teachers.load(card, logits=True)(noise(2, 224)), own.eval()(x), rtol=1e-4, atol=1e-4)
        teacher = teachers.load(card)
        assert_close(teacher(noise(2, 224)), own.forward_head(own.forward_features(x), pre_logits=True))
    assert sum(p.numel() for p in teacher.parameters()) == card.parameters


def hub_cache(card: teachers.Card, home: Path, **options: Any) -> dict[str, torch.Tensor]:
    """The Hugging Face cache as a download of the card's repository leaves it, with random weights."""
    repository, revision = card.source.removeprefix("Hugging Face hub: "), "0123456789abcdef0123456789abcdef01234567"
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    for part in ("refs", f"snapshots/{revision}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    state = random_state(timm.create_model(card.arch, **options))
    save_file(state, folder / "snapshots" / revision / "model.safetensors", metadata={"format": "pt"})
    return state


OFFLINE = """
import sys, torch, teachers
card = teachers.card(sys.argv[1])
torch.manual_seed(0)
x = torch.randint(256, (2, 3, card.image_size, card.image_size), dtype=torch.uint8)
torch.save([x, teachers.load(card)(x)], sys.argv[2])
"""


@pytest.mark.parametrize("name", ["jft/efficientnet_b0", "jft/efficientnet_b1", "in21k/vit_tiny_patch16_224"])
def test_hub_teachers_load_from_the_hubs_cache(name: str, tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads HF_HOME when it is imported."""
    import subprocess
    import sys

    card = teachers.card(name)
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", OFFLINE, name, str(tmp_path / "out.pt")]
    alone = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert f"ConnectionError: The weights of '{name}' could not be had" in alone.stderr
    assert f"fetch {card.url} elsewhere and name that file as teacher.N.weights" in alone.stderr
    state = hub_cache(card, tmp_path)
    subprocess.run(command, env=environment, check=True)
    x, found = torch.load(tmp_path / "out.pt")
    net = timm.create_model(card.arch).eval()
    net.load_state_dict(state)
    net.reset_classifier(0)
    normal = (x.float() / 255 - torch.tensor(card.mean).view(3, 1, 1)) / torch.tensor(card.std).view(3, 1, 1)
    with torch.no_grad():
        assert_close(found, net(normal), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("card", [c for c in HUB if c.name.startswith("jft/")], ids=lambda c: c.name)
def test_the_jft_checkpoints_have_the_keys_of_timms_networks(card: teachers.Card) -> None:
    """Every size up to L2, without memory for its weights: the file has exactly these names and shapes."""
    keys = meta(card).state_dict()
    assert keys["classifier.weight"].shape == (1000, card.width)
    assert {"conv_stem.weight", "bn2.running_var", "blocks.6.0.se.conv_reduce.bias"} <= keys.keys()
