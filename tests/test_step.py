"""One optimiser step: k processes at any ZeRO stage, in one piece or in many, compute what one process computes.

tests/step_worker.py takes the steps, every variant in the same processes. The reference is plain torch in one
process: no DeepSpeed, one piece.

Gradients are compared parameter by parameter, temperature and bias too, relative to the parameter's largest. Measured:
in float32 the order of summation moves a gradient by up to 3e-6 and a term by 2.4e-7; replayed pieces are within 4e-7
of the same pieces in one graph at the same stage. In bfloat16, pieces move a gradient by up to 1.3e-2 and no term; the
rounding itself moves gradients by up to 3.3e-2 and terms by 3e-3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import step_worker
import torch
from ranks import in_ranks
from step_worker import ALIKE, BATCH_NORM, PIECES, Run, plan
from torch.testing import assert_close

from distill.training.step import embed
from launch import group

Outcomes = Callable[[int], dict[str, Any]]

# Of gradients and of terms; a few times what was measured, since other processors sum in another order.
SUMMED, REPLAYED, IN_PIECES, ROUNDED = (1e-5, 1e-6), (2e-6, 1e-6), (4e-2, 5e-3), (1e-1, 1e-2)
RUNS = [(world, run) for world in PIECES for run in plan(world)]
RANDOM_OR_NORMED = [(w, r) for w, r in RUNS if r.reference.mode == "graph" and r.mode != "graph"]
GRAPHS = [(w, r) for w, r in RUNS if r.mode == "graph" and r.stage]
FP32 = [(w, r) for w, r in RUNS if r.mode != "torch" and r.reference.mode == "torch" and r.precision == "fp32"]
BF16 = [(w, r) for w, r in RUNS if r.precision == "bf16"]


def named(pairs: list[tuple[int, Run]]) -> Any:
    """The test once for each number of processes and run."""
    return pytest.mark.parametrize("world, run", pairs, ids=[f"ranks{world}-{run}" for world, run in pairs])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("step")


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> Outcomes:
    """The outcome of every run of some number of processes, by its name; they are started at the first question."""

    @functools.cache
    def of(world: int) -> dict[str, Any]:
        in_ranks(world, step_worker.main, folder, cwd=folder)
        return dict(torch.load(folder / f"{world}.pt"))

    return of


def check_same(found: dict[str, Any], expected: dict[str, Any], tolerances: tuple[float, float]) -> None:
    """Terms, and every parameter's gradient, up to a tolerance; and all processes hold the same weights."""
    gradient, term = tolerances
    assert found["apart"] == 0
    assert found["terms"] == pytest.approx(expected["terms"], rel=term, abs=term)
    assert found["gradients"].keys() == expected["gradients"].keys()
    wrong = {name: off for name in found["gradients"] if (off := distance(found, expected, name)) > gradient}
    assert not wrong


def distance(found: dict[str, Any], expected: dict[str, Any], name: str) -> float:
    """How far a parameter's gradient is off, relative to its largest entry; one that is zero must be exactly that."""
    a, b = found["gradients"][name], expected["gradients"][name]
    off: float = ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()
    return off


@named(FP32)
def test_a_step_is_that_of_one_process_in_one_piece(world: int, run: Run, outcomes: Outcomes) -> None:
    check_same(outcomes(world)[str(run)], outcomes(1)[str(run.reference)], SUMMED)


@named(RANDOM_OR_NORMED)
def test_a_replayed_piece_draws_the_same_numbers_again(world: int, run: Run, outcomes: Outcomes) -> None:
    """Against all pieces in one graph: with dropout, and with batch norms, the pieces matter."""
    check_same(outcomes(world)[str(run)], outcomes(world)[str(run.reference)], REPLAYED)


@named(GRAPHS)
def test_a_stage_draws_the_same_numbers(world: int, run: Run, outcomes: Outcomes) -> None:
    check_same(outcomes(world)[str(run)], outcomes(world)[str(run.reference)], SUMMED)


@named([(world, run) for world, run in RANDOM_OR_NORMED if run.variant == BATCH_NORM])
def test_batch_norms_see_every_piece_once(world: int, run: Run, outcomes: Outcomes) -> None:
    found, expected = (outcomes(world)[str(r)]["buffers"] for r in (run, run.reference))
    assert found["image.net.bn1.num_batches_tracked"] == 2 * PIECES[world]  # of two steps
    assert found["image.net.bn1.running_mean"].abs().max() > 1e-3
    for name, value in expected.items():
        assert_close(found[name], value, rtol=1e-6, atol=1e-7)


@named(BF16)
def test_bf16_rounds_and_does_nothing_else(world: int, run: Run, outcomes: Outcomes) -> None:
    found, exact = outcomes(world)[str(run)], outcomes(1)[str(run.reference)]
    check_same(found, exact, ROUNDED)
    check_same(found, outcomes(world)[str(run._replace(stage=0, mode="plain"))], IN_PIECES)
    # Or nothing was computed in bf16.
    assert max(distance(found, exact, name) for name in exact["gradients"]) > 1e-3
    assert found["terms"] != pytest.approx(exact["terms"], abs=1e-4)


@pytest.mark.parametrize("variant", ALIKE)
def test_what_is_compared_is_not_nothing(variant: str, outcomes: Outcomes) -> None:
    """Every parameter that should learn has a gradient, temperature and bias too."""
    gradients = outcomes(1)[str(Run(variant, 0, "torch"))]["gradients"]
    still = {name for name, gradient in gradients.items() if not gradient.any()}
    if variant == "three_towers-locked":
        trained = {name for name in gradients if name.startswith("text.head.") or not name.startswith("text.")}
        assert still == gradients.keys() - trained | {name for name in trained if "_embed" in name}
    elif variant == "cosine-of-images-alone":
        assert still == {name for name in gradients if name.startswith("text.")} | {"log_scale"}
    else:
        assert not still


@pytest.mark.parametrize("world", PIECES)
def test_dropout_is_felt(world: int, outcomes: Outcomes) -> None:
    of = outcomes(world)
    random, plain = of["three_towers-stage0-graph-dropout"], of["three_towers-stage0-plain"]
    for name in ("image.net.head.weight", "text.head.weight"):
        assert distance(random, plain, name) > 0.1


def test_pieces_draw_numbers_of_their_own_and_the_same_ones_again() -> None:
    run, alone = Run("three_towers", 0, "torch", dropout=True), group.Group(0, 1, torch.device("cpu"))
    step = step_worker.step_of(run, alone)
    batch = step_worker.batch_of(step_worker.VARIANTS[run.variant], step.objective.needs, 1, alone)
    half = step_worker.cut(batch, 2)[0]
    rows = {seed: embed(step.engine, [half, half], seed) for seed in (5, 6)}
    replayed = embed(step.engine, [half], 5, first=1)
    for name in ("image", "text", "0/image_h", "0/text_h"):
        first, second = rows[5][name].chunk(2)
        assert_close(replayed[name], second, rtol=0, atol=0)
        assert (first - second).abs().max() > 0.01
        assert (first - rows[6][name].chunk(2)[0]).abs().max() > 0.01


@pytest.mark.parametrize("world", PIECES)
def test_gather_puts_rows_in_rank_order_and_sums_their_gradients(world: int, folder: Path, outcomes: Outcomes) -> None:
    outcomes(world)
    ranks = [torch.load(folder / f"gathered-{rank}-of-{world}.pt") for rank in range(world)]
    for rank, one in enumerate(ranks):
        # All tensors in one collective each way, and none where there is nobody to talk to.
        assert one["collectives"] == ((1, 1) if world > 1 else (0, 0))
        for name, gradient in one["gradients"].items():
            assert torch.equal(one["whole"][name], torch.cat([other["local"][name] for other in ranks]))
            mine = slice(3 * rank, 3 * rank + 3)
            assert_close(gradient, torch.stack([other["slopes"][name][mine] for other in ranks]).sum(dim=0))
