"""Optimisers whose state has different keys for different parameters: saved and restored exactly, at every ZeRO stage
and by other numbers of processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import own_optimizers
import pytest
import torch
from conftest import RECIPE, distill, losses_of
from ranks import in_ranks, train_together
from safetensors.torch import load_file, save_file
from torch import nn

from distill.lookup import find_optimizer
from distill.recipe import parse
from distill.training.optimizer import build_optimizer
from launch import group as processes
from launch import zero
from launch.settings import deepspeed_settings


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_optimizers.installed(tmp_path_factory.mktemp("package")):
        yield


class Small(nn.Module):
    """A network whose parameters have sizes that two and three processes cannot divide evenly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.linear = nn.Conv2d(3, 5, 3), nn.LayerNorm(5), nn.Linear(5, 7)
        self.position, self.scale = nn.Parameter(torch.randn(1, 5)), nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.conv(x).mean((2, 3)) + self.position)
        return (self.linear(features).tanh() * self.scale).square().mean()


def engine_of(stage: int, group: processes.Group, start: Path | None) -> Any:
    """An engine of :class:`Small`, in the state saved in ``start`` if given."""
    import deepspeed

    model, saved = Small(), load_file(start) if start else {}
    if start:
        model.load_state_dict({k.removeprefix("model/"): v for k, v in saved.items() if k.startswith("model/")})
    recipe = {"data": {"train": "x"}, "objective": {"name": "contrastive"}, "zero": {"stage": stage}}
    checked = parse(recipe | {"optim": {"name": "two_kinds", "lr": 0.05}})
    optimizer, _ = build_optimizer(model, checked, find_optimizer(checked))
    settings = deepspeed_settings(batch_size=12, world=group.world, pieces=1, stage=stage, precision="fp32", clip=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    if start:
        optimizer = {k.removeprefix("optimizer/"): v for k, v in saved.items() if k.startswith("optimizer/")}
        zero.load_optimizer_state(engine, optimizer)
    return engine


def save(engine: Any, group: processes.Group, path: Path) -> None:
    with zero.full_parameters(engine.module):
        model = {f"model/{name}": value.clone() for name, value in engine.module.state_dict().items()}
    state = {f"optimizer/{name}": value for name, value in zero.optimizer_state(engine).items()}
    if group.first:
        save_file(model | state, path)


def advance(engine: Any, group: processes.Group, first: int, last: int) -> None:
    for step in range(first, last):
        batch = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        engine.backward(engine(batch.chunk(group.world)[group.rank]))
        zero.step(engine)


def train_small(runs: list[tuple[int, Path | None, Path]]) -> None:
    """In a process of a job: train from the start and save steps 3 and 6, or load the state of step 3 from ``start``,
    save it again, and train to step 6."""
    group = processes.join()
    for stage, start, out in runs:
        engine = engine_of(stage, group, start)
        if start:
            save(engine, group, out.with_suffix(".copy"))
            advance(engine, group, 3, 6)
            save(engine, group, out)
        else:
            advance(engine, group, 0, 3)
            save(engine, group, out)
            advance(engine, group, 3, 6)
            save(engine, group, out.with_suffix(".whole"))
        engine.destroy()
    processes.leave()


MADE_BY = [(world, stage) for world in (1, 2, 3) for stage in range(4)]
# Each is resumed with the same number of processes and stage, and with two other pairs of these.
RESUMED = [(then, MADE_BY[(k + by) % 12]) for k, then in enumerate(MADE_BY) for by in (0, 3, 7)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the states of all pairs in :data:`RESUMED`, before and after."""
    folder = tmp_path_factory.mktemp("small")
    for world in (1, 2, 3):
        runs = [(stage, None, folder / f"{w}-{stage}") for w, stage in MADE_BY if w == world]
        in_ranks(world, train_small, runs, cwd=folder)
    for world in (1, 2, 3):
        resumed_here = [(then, now) for then, now in RESUMED if now[0] == world]
        runs = [(now[1], folder / name_of(then), folder / name_of(then, now)) for then, now in resumed_here]
        in_ranks(world, train_small, runs, cwd=folder)
    return folder


def name_of(*pairs: tuple[int, int]) -> str:
    return "-".join(str(number) for pair in pairs for number in pair)


def identical(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) and one[k].dtype == two[k].dtype for k in one)


def test_each_group_has_its_own_keys(small: Path) -> None:
    keys_of: dict[str, set[str]] = {}
    for world, stage in MADE_BY:
        state = load_file(small / name_of((world, stage)))
        keys_of = {}
        for name in state:
            if name.startswith("optimizer/"):
                _, parameter, key = name.split("/")
                keys_of.setdefault(parameter, set()).add(key)
        assert keys_of.keys() == dict(Small().named_parameters()).keys()
        for parameter, keys in keys_of.items():
            kernel = parameter in ("conv.weight", "linear.weight")
            assert keys == ({"count:number", "slow"} if kernel else {"step", "scale:number", "mean", "square"})
            shape = dict(Small().named_parameters())[parameter].shape
            assert state[f"optimizer/{parameter}/{'slow' if kernel else 'mean'}"].shape == shape
        assert state["optimizer/conv.weight/slow"].dtype == torch.bfloat16


@pytest.mark.parametrize("then, now", RESUMED, ids=name_of)
def test_state_with_different_keys_is_restored_exactly(
    small: Path, then: tuple[int, int], now: tuple[int, int]
) -> None:
    assert identical(small / name_of(then), (small / name_of(then, now)).with_suffix(".copy"))
    # Training continues as without the interruption: bit for bit if processes and stage are the same.
    whole, resumed = (small / name_of(then)).with_suffix(".whole"), small / name_of(then, now)
    if then == now:
        assert identical(whole, resumed)
    one, two = load_file(whole), load_file(resumed)
    assert one.keys() == two.keys()
    for name in one:
        # bfloat16 keeps eight bits, and sums of gradients are rounded to it.
        torch.testing.assert_close(two[name].float(), one[name].float(), rtol=2e-2, atol=1e-4, check_dtype=False)


def check_refused(changes: list[tuple[str, Callable[..., Any]]], stages: list[int], start: Path) -> None:
    """In a process: check that loading a state fails if one parameter of a group has a different state."""
    group = processes.join()
    saved = {k.removeprefix("optimizer/"): v for k, v in load_file(start).items() if k.startswith("optimizer/")}
    for words, change in changes:
        for stage in stages:
            engine = engine_of(stage, group, None)
            with pytest.raises(ValueError, match=words):
                zero.load_optimizer_state(engine, change(dict(saved)))
            engine.destroy()
    processes.leave()


def without_a_key(state: dict[str, Any]) -> dict[str, Any]:
    del state["norm.bias/mean"]
    return state


def without_a_parameter(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if not name.startswith("norm.bias/")}


def with_another_count(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"linear.weight/count:number": torch.tensor(8)}


def with_another_shape(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"linear.weight/slow": torch.zeros(7, dtype=torch.bfloat16)}


def test_a_state_that_differs_within_a_group_is_refused(small: Path, tmp_path: Path) -> None:
    changes = [
        ("for 'norm.bias': .*Set zero.stage = 0", without_a_key),
        ("has .* and nothing for 'norm.bias'", without_a_parameter),
        ("'count:number' of 'conv.weight' and of 'linear.weight' differ", with_another_count),
        (r"'slow' of 'linear.weight' is of shape \(7,\), the parameter of shape \(7, 5\)", with_another_shape),
    ]
    in_ranks(1, check_refused, changes, [1, 2, 3], small / name_of((1, 0)), cwd=tmp_path)


def check_not_saved(key: str, value: Any, words: str) -> None:
    """In a process: check that saving fails if the optimiser's state has a value that a checkpoint cannot store."""
    group = processes.join()
    for stage in (1, 3):
        engine = engine_of(stage, group, None)
        advance(engine, group, 0, 1)
        for state in engine.optimizer.optimizer.state.values():
            state[key] = value
        with pytest.raises(ValueError, match=words):
            zero.optimizer_state(engine)
        engine.destroy()
    processes.leave()


@pytest.mark.parametrize(
    "value, words",
    [
        (None, "'extra' as a NoneType"),
        (torch.zeros(3), r"'extra' as torch.float32 of shape \(3,\)"),
    ],
)
def test_a_state_that_a_checkpoint_cannot_store_is_refused(tmp_path: Path, value: Any, words: str) -> None:
    in_ranks(1, check_not_saved, "extra", value, words, cwd=tmp_path)


def test_a_run_with_an_optimiser_of_another_package_resumes_with_the_same_losses(tmp_path: Path, shards: Path) -> None:
    """A whole training; resumed as it was, and by one process at another stage."""
    (tmp_path / "recipe.toml").write_text(RECIPE.format(shards=shards))
    settings = ("teacher=[]", "objective.name=contrastive", "optim.name=two_kinds", "optim.momentum=0.4")
    runs = [tmp_path / name for name in ("whole", "parts", "moved")]
    train_together(tmp_path, {runs[0]: (*settings, "zero.stage=2")}, 2)
    for run in runs[1:]:
        shutil.copytree(runs[0], run)
        shutil.rmtree(run / "checkpoints" / "step-00000006")
        (run / "checkpoints" / "latest").write_text("step-00000003")
    train_together(tmp_path, {runs[1]: (*settings, "zero.stage=2")}, 2, resume=True)
    train_together(tmp_path, {runs[2]: (*settings, "zero.stage=3")}, 1, resume=True)
    assert losses_of(runs[1]) == losses_of(runs[0])
    assert losses_of(runs[2]) == pytest.approx(losses_of(runs[0]), rel=1e-3)
    refused = distill(
        "train", "recipe.toml", "--out", runs[0], "--set", "optim.name=two_kinds", "--resume", cwd=tmp_path, status=2
    )
    assert "another" in refused.stderr and "optim.momentum" in refused.stderr
