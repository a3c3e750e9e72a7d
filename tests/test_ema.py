"""``train.ema``: averages against NumPy, at every ZeRO stage, through resuming, and in all that is made of a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import step_worker
import torch
from conftest import RECIPE, SCRATCH, distill, evaluated, losses_of, write_shards
from ranks import in_ranks, train_together
from safetensors.torch import load_file

import distill as package
from distill.errors import UserError
from distill.lookup import resolve
from distill.recipe import load
from distill.run_tables import Zero
from distill.training.averaging import check_average, current_averages, keep_buffer_averages
from distill.training.checkpoint import Snapshot
from distill.training.loop import make_engine
from distill.training.model import student_tensors
from distill.training.run import read_about, read_recipe, resolve_run
from distill.training.setup import Networks
from distill.training.space import checkpoint_size
from launch import group as processes
from launch import weight_average, zero

DECAY, STEPS, SKIPPED = 0.22, 5, 3  # the warm-up, 1/10, 2/11, 3/12, …, ends at the third step; step 3 is not finite
VARIANTS = {"three_towers-independent": "fp32", "three_towers-resnet": "fp32", "three_towers-locked": "bf16"}


def spoil_gradients(module: torch.nn.Module, inputs: Any, outputs: dict[str, torch.Tensor]) -> None:
    """A forward hook: the gradient of the embeddings will be NaN."""
    if outputs["embedding"].requires_grad:
        outputs["embedding"].register_hook(lambda gradient: gradient * float("nan"))


def values_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """All parameters and the buffers of floats, without the averages of buffers."""
    buffers = {n: b.clone() for n, b in model.named_buffers() if b.is_floating_point() and "averages" not in n}
    return {name: value.double().numpy() for name, value in (step_worker.weights_of(model) | buffers).items()}


def average_steps(folder: Path) -> None:
    """In a process of a job: take steps, of which one is not finite, and write weights after each, and averages."""
    group = processes.join()
    for variant, precision in VARIANTS.items():
        for stage in range(4):
            run = step_worker.Run(variant, stage, "cached" if stage % 2 else "plain", precision=precision)
            step = replace(step_worker.step_of(run, group), ema=DECAY)
            model = step.engine.module
            keep_buffer_averages(model)
            weight_average.keep(step.engine)
            for parameters in step.engine.optimizer.param_groups:
                parameters["lr"] = 0.5
            history, applied = [values_of(model)], []
            for number in range(1, STEPS + 1):
                hook = model.get_submodule("image").register_forward_hook(spoil_gradients)
                if number != SKIPPED:
                    hook.remove()
                batch = step_worker.batch_of(step_worker.VARIANTS[variant], step.objective.needs, number, group)
                share = step_worker.cut(batch, step_worker.PIECES[group.world] if stage % 2 else 1)
                applied.append(not step(share, number).nonfinite)
                hook.remove()
                history.append(values_of(model))
            found = current_averages(step.engine)
            counts = {values[weight_average.STEPS] for values in zero.kept_beside(step.engine).values()}
            seen = {id(v) for values in step.engine.optimizer.state.values() for v in values}
            result = {"history": history, "applied": applied, "found": found, "counts": counts, "seen": len(seen)}
            result |= {"students": student_tensors(model, found), "now": student_tensors(model)}
            torch.save(result, folder / f"{variant}-{stage}-{group.world}-{group.rank}.pt")
            step.engine.destroy()
    processes.leave()


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    for world in (1, 2):
        in_ranks(world, average_steps, folder, cwd=folder)
    return folder


def expected_averages(history: list[dict[str, np.ndarray]], applied: list[bool]) -> dict[str, np.ndarray]:
    """The averages after the last step, in float64, from the values before the first step and after each."""
    averages, t = dict(history[0]), 0
    for values, done in zip(history[1:], applied, strict=True):
        if done:
            decay = min(DECAY, (1 + t) / (10 + t))
            averages = {name: decay * averages[name] + (1 - decay) * values[name] for name in averages}
            t += 1
    return averages


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("world", [1, 2])
def test_averages_are_those_of_numpy(steps: Path, variant: str, stage: int, world: int) -> None:
    for rank in range(world):
        result = torch.load(steps / f"{variant}-{stage}-{world}-{rank}.pt", weights_only=False)
        assert result["applied"] == [number != SKIPPED for number in range(1, STEPS + 1)]
        assert result["counts"] == {STEPS - 1} and not result["seen"]
        expected = expected_averages(result["history"], result["applied"])
        last = result["history"][-1]
        assert result["found"].keys() <= expected.keys()
        for name, value in expected.items():
            # What has no average does not change: locked weights, and buffers that are no statistics.
            found = result["found"].get(name, torch.from_numpy(last[name]))
            np.testing.assert_allclose(found, value, rtol=2e-6, atol=1e-6, err_msg=name)
        moved = [name for name in result["found"] if np.abs(expected[name] - last[name]).max() > 1e-3]
        assert len(moved) > 5 and ("resnet" not in variant or any("running_mean" in name for name in moved))
        check_students(result["students"], expected)
        assert any(not torch.allclose(value, result["now"][name]) for name, value in result["students"].items())


def check_students(students: dict[str, torch.Tensor], averages: dict[str, np.ndarray]) -> None:
    """Check that exported tensors are the averages, with the heads of f↔g multiplied into the last projections."""
    assert students["scale"].item() == pytest.approx(np.exp(averages["log_scale"][0]), rel=1e-5)
    heads = {f"{modality}.": averages.get(f"between.{head}.weight") for modality, head in HEADS.items()}
    folded = 0
    for name, value in students.items():
        if name == "scale" or name.startswith("adapter.") or not value.is_floating_point():
            continue
        head = heads[name.split(".")[0] + "."]
        same = np.allclose(value, averages[name], rtol=2e-6, atol=1e-6)
        if not same:
            assert head is not None, name  # only the last projection differs, where a head is folded into it
            np.testing.assert_allclose(value, head @ averages[name], rtol=1e-4, atol=1e-5, err_msg=name)
            folded += 1
    assert bool(folded) == any(head is not None for head in heads.values())


HEADS = {"image": "f_g", "text": "g_f"}
NORMS = 'student.image={arch="resnet18", stem_width=8, channels=[8, 8, 8, 8]}'
PLAIN = ("teacher=[]", "objective.name=contrastive", NORMS, "train.ema=0.3")
MADE_BY = [(1, 0), *((2, stage) for stage in range(4))]  # (processes, ZeRO stage) of the runs
MOVED = [(then, (world, stage)) for then in ((1, 0), (2, 1), (2, 2), (2, 3)) for world in (1, 2) for stage in range(4)]


def shape(stage: int) -> tuple[str, ...]:
    return (*PLAIN, f"zero.stage={stage}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A folder with runs of six steps, named by processes and stage."""
    folder = tmp_path_factory.mktemp("ema")
    (folder / "recipe.toml").write_text(
        RECIPE.format(shards=shards).replace("[data]", f'[data]\neval = "{folder}/eval"')
    )
    write_shards(folder / "eval", (16,), 90)
    for nproc in (1, 2):
        runs = {folder / f"{world}-{stage}": shape(stage) for world, stage in MADE_BY if world == nproc}
        train_together(folder, runs, nproc)
    return folder


def state_of(run: Path, step: int = 6) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/step-{step:08d}/state.safetensors")


def interrupted(run: Path, new: Path) -> Path:
    """A copy of a finished run that stands at step 3."""
    shutil.copytree(run, new)
    shutil.rmtree(new / "checkpoints" / "step-00000006")
    (new / "checkpoints" / "latest").write_text("step-00000003")
    return new


@pytest.fixture(scope="module")
def resumed(home: Path) -> Path:
    """A folder with the runs of two processes, interrupted and resumed: as they were, and by one at stage 2."""
    folder = home / "resumed"
    folder.mkdir()
    same = {interrupted(home / f"2-{stage}", folder / f"2-{stage}"): shape(stage) for stage in range(4)}
    train_together(home, same, 2, resume=True)
    moved = {interrupted(home / f"2-{stage}", folder / f"moved-{stage}"): shape(2) for stage in range(4)}
    train_together(home, moved, 1, resume=True)
    return folder


@pytest.mark.parametrize("stage", range(4))
def test_a_resumed_run_has_the_same_averages_bit_for_bit(home: Path, resumed: Path, stage: int) -> None:
    whole, parts = state_of(home / f"2-{stage}"), state_of(resumed / f"2-{stage}")
    assert whole.keys() == parts.keys() and all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert any(name.endswith("/weight_average") for name in whole)
    assert any("buffer_averages" in name and "running_var" in name for name in whole)
    students = [
        load_file(run / f"2-{stage}/checkpoints/step-00000006/students.safetensors") for run in (home, resumed)
    ]
    assert all(torch.equal(value, students[1][name]) for name, value in students[0].items())


@pytest.mark.parametrize("stage", range(4))
def test_averages_go_on_with_other_processes_and_stages(home: Path, resumed: Path, stage: int) -> None:
    whole, moved = state_of(home / f"2-{stage}"), state_of(resumed / f"moved-{stage}")
    assert whole.keys() >= moved.keys()
    averages = [name for name in moved if name.endswith("/weight_average")]
    for name in averages:
        # A batch norm's statistics are of half a batch in two processes, of a whole one in one.
        torch.testing.assert_close(moved[name], whole[name], rtol=0.05, atol=5e-3)
    assert averages and {v.item() for n, v in moved.items() if n.endswith("average_steps:number")} == {6}


def take_over(home: Path, moves: list[tuple[str, int]]) -> None:
    """In a process of a job: load the third step of runs at another stage, and check that it is saved unchanged."""
    group = processes.join()
    for name, stage in moves:
        run = home / name
        recipe = read_recipe(run).model_copy(update={"zero": Zero(stage=stage)})  # type: ignore[arg-type]
        snapshot = Snapshot.read(run / "checkpoints" / "step-00000003")
        networks = Networks(resolve(recipe), initialize=False)
        engine, _ = make_engine(networks, read_about(run)["vocab"], snapshot, group)
        again = Snapshot.take(engine, 3, group)
        pairs = [(snapshot.optimizer, again.optimizer)]
        # A model's state dict has the buffers of the first process.
        pairs += [(snapshot.model, again.model)] if group.first else []
        pairs.append((snapshot.buffers[group.rank % len(snapshot.buffers)], again.buffers[group.rank]))
        for one, two in pairs:
            assert one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items())
        engine.destroy()
    processes.leave()


@pytest.mark.parametrize("world", [1, 2])
def test_averages_are_taken_over_exactly(home: Path, world: int) -> None:
    moves = [(f"{then[0]}-{then[1]}", now[1]) for then, now in MOVED if now[0] == world]
    assert len(moves) == 16
    in_ranks(world, take_over, home, moves, cwd=home)


def test_stages_and_processes_agree(home: Path) -> None:
    reference = state_of(home / "2-0")
    for stage in (1, 2, 3):
        found = state_of(home / f"2-{stage}")
        assert found.keys() == reference.keys()
        for name in (name for name in reference if name.endswith("/weight_average")):
            torch.testing.assert_close(found[name], reference[name], rtol=1e-3, atol=1e-4)


def test_training_is_the_same_as_without(home: Path) -> None:
    distill("train", "recipe.toml", "--out", "without", *SCRATCH, "--set", NORMS, cwd=home)
    assert losses_of(home / "without") == losses_of(home / "1-0")
    plain, own = state_of(home / "without"), state_of(home / "1-0")
    assert not any("average" in name for name in plain)
    assert all(torch.equal(value, own[name]) for name, value in plain.items())


def test_what_is_evaluated_exported_loaded_and_started_from_is_the_average(home: Path) -> None:
    table = 'evaluate=[{task="retrieval", every=3, best="mean_r10"}]'
    words = [word for setting in (*PLAIN, table) for word in ("--set", setting)]
    distill("train", "recipe.toml", "--out", "run", *words, cwd=home)
    distill("export", "run", "--out", "export", cwd=home)
    lines = [json.loads(line) for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]
    in_training = {line["step"]: line["evaluate"] for line in lines if "evaluate" in line}
    assert in_training.keys() == {3, 6}
    for name in ("run", "export"):
        data = ("--data", str(read_recipe(home / "run").data.eval[0])) if name == "export" else ()
        found = evaluated(name, "--task", "retrieval", *data, cwd=home)["metrics"]
        assert {metric: in_training[6][f"retrieval/{metric}"] for metric in found} == pytest.approx(found, abs=1e-6)
    state, exported = state_of(home / "run"), load_file(home / "export" / "image.safetensors")
    for name, value in exported.items():
        average = state.get(f"optimizer/image.net.{name}/weight_average")
        if average is None:
            average = state.get(f"buffers-0/buffer_averages.image/net/{name.replace('.', '/')}")
        if average is None:  # the number of batches that a batch norm has seen
            average = state[f"model/image.net.{name}"]
            assert not average.is_floating_point()
        assert torch.equal(value, average), name
    assert not torch.equal(exported["conv1.weight"], state["model/image.net.conv1.weight"])
    (best,) = (home / "run" / "best").glob("step-*")
    of_best = load_file(best / "students.safetensors")["image.net.conv1.weight"]
    assert torch.equal(of_best, load_file(best / "state.safetensors")[CONV])
    scale = torch.exp(state["optimizer/log_scale/weight_average"][0]).item()
    config = json.loads((home / "export" / "config.json").read_text())
    assert 1 / config["temperature"] == pytest.approx(scale, rel=1e-5)
    pictures = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    loaded = [package.load(home / name).encode_image(pictures) for name in ("run", "export")]
    torch.testing.assert_close(loaded[0], loaded[1], rtol=0, atol=0)
    assert "averaged over the steps with decay 0.3" in (home / "export" / "README.md").read_text()
    init = [*PLAIN[:3], f"student.image.init={home / 'run'}"]
    started = Networks(resolve(load(str(home / "recipe.toml"), init))).model(read_about(home / "run")["vocab"])
    assert torch.equal(started.state_dict()["image.net.conv1.weight"], state[CONV])


CONV = "optimizer/image.net.conv1.weight/weight_average"


@pytest.mark.parametrize("value", ["1", "-0.1", "nan", "1.5", '"yes"'])
def test_a_decay_that_is_none_is_refused(home: Path, value: str) -> None:
    with pytest.raises(UserError, match="train.ema"):
        load(str(home / "recipe.toml"), [f"train.ema={value}"])


@pytest.mark.parametrize("changed", ["train.ema=0", "train.ema=0.9"])
def test_another_decay_is_refused_when_going_on(home: Path, changed: str) -> None:
    words = [word for setting in (*PLAIN[:3], changed) for word in ("--set", setting)]
    refused = distill("train", "recipe.toml", "--out", "1-0", *words, "--resume", cwd=home, status=2)
    assert "started with another train.ema" in refused.stderr


def test_averages_of_students_that_learn_nothing_are_refused(home: Path, tmp_path: Path) -> None:
    still = [*PLAIN, "student.image.lr_scale=0", "student.text.lr_scale=0"]
    words = [word for setting in still for word in ("--set", setting)]
    refused = distill("train", "recipe.toml", "--out", tmp_path / "run", *words, cwd=home, status=2)
    assert "train.ema = 0.3 averages the weights of the students, of which none is trained" in refused.stderr
    assert "Set train.ema = 0" in refused.stderr and not (tmp_path / "run").exists()


def test_a_locked_tower_beside_one_that_learns_is_no_reason_to_refuse(home: Path) -> None:
    recipe = load(str(home / "recipe.toml"), PLAIN)
    model = Networks(resolve(recipe)).model(100)
    for tower in model.towers.values():
        check_average(recipe, model)
        tower.requires_grad_(False)
    with pytest.raises(UserError, match=r"student\.image\.locked and lr_scale or student\.text\.locked"):
        check_average(recipe, model)
    check_average(recipe.model_copy(update={"train": recipe.train.model_copy(update={"ema": 0.0})}), model)


def test_the_size_of_a_checkpoint_counts_the_averages(home: Path) -> None:
    model = Networks(resolve_run(home / "1-0")).model(read_about(home / "1-0")["vocab"])
    size = sum(path.stat().st_size for path in (home / "1-0/checkpoints/step-00000006").iterdir())
    trained = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert checkpoint_size(model, averaged=True) == checkpoint_size(model) + trained
    assert checkpoint_size(model, averaged=True) == pytest.approx(size, rel=0.2)
