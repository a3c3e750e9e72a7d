"""One optimiser step: k processes at any ZeRO stage, in one piece or in many, compute what one process computes.

tests/step_worker.py takes the steps, every variant in the same processes. The reference is plain torch in one
process: no DeepSpeed, one piece.

Gradients are compared parameter by parameter, including temperature and bias, relative to the largest entry. Measured:
in float32 the order of summation changes a gradient by up to 3e-6 and a term by 2.4e-7; replayed pieces are within
4e-7 of the same pieces in one graph at the same stage. In bfloat16, pieces change a gradient by up to 1.3e-2 and no
term; the rounding itself changes gradients by up to 3.3e-2 and terms by 3e-3.
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
from step_worker import BATCH_NORM, PIECES, SAME_IN_PIECES, Run, plan
from torch.testing import assert_close

from distill.training.step import embed
from launch import group

Outcomes = Callable[[int], dict[str, Any]]

# Tolerances of (gradients, terms): a few times the measured differences, since other CPUs sum in another order.
SUMMED, REPLAYED, IN_PIECES, ROUNDED = (1e-5, 1e-6), (2e-6, 1e-6), (4e-2, 5e-3), (1e-1, 1e-2)
RUNS = [(world, run) for world in PIECES for run in plan(world)]
DROPOUT_OR_BATCH_NORM = [(w, r) for w, r in RUNS if r.reference.mode == "graph" and r.mode != "graph"]
GRAPHS = [(w, r) for w, r in RUNS if r.mode == "graph" and r.stage]
FP32 = [(w, r) for w, r in RUNS if r.mode != "torch" and r.reference.mode == "torch" and r.precision == "fp32"]
BF16 = [(w, r) for w, r in RUNS if r.precision == "bf16"]


def for_each(pairs: list[tuple[int, Run]]) -> Any:
    """Parametrise a test by pairs of a number of processes and a run."""
    return pytest.mark.parametrize("world, run", pairs, ids=[f"ranks{world}-{run}" for world, run in pairs])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("step")


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> Outcomes:
    """A function from a number of processes to the outcomes of their runs, by name; its first call starts them."""

    @functools.cache
    def outcomes_of(world: int) -> dict[str, Any]:
        in_ranks(world, step_worker.main, folder, cwd=folder)
        return dict(torch.load(folder / f"{world}.pt"))

    return outcomes_of


def check_same(found: dict[str, Any], expected: dict[str, Any], tolerances: tuple[float, float]) -> None:
    """Assert that terms and gradients agree up to the tolerances, and that all processes hold the same weights."""
    gradient, term = tolerances
    assert found["deviation"] == 0
    assert found["terms"] == pytest.approx(expected["terms"], rel=term, abs=term)
    assert found["gradients"].keys() == expected["gradients"].keys()
    wrong = {name: error for name in found["gradients"] if (error := distance(found, expected, name)) > gradient}
    assert not wrong


def distance(found: dict[str, Any], expected: dict[str, Any], name: str) -> float:
    """The largest error of a parameter's gradient, relative to its largest entry."""
    a, b = found["gradients"][name], expected["gradients"][name]
    error: float = ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()
    return error


@for_each(FP32)
def test_a_step_equals_that_of_one_process_in_one_piece(world: int, run: Run, outcomes: Outcomes) -> None:
    check_same(outcomes(world)[str(run)], outcomes(1)[str(run.reference)], SUMMED)


@for_each(DROPOUT_OR_BATCH_NORM)
def test_replayed_pieces_with_dropout_or_batch_norm_equal_one_graph(world: int, run: Run, outcomes: Outcomes) -> None:
    """The reference is all pieces in one graph, since with dropout or batch norm the result depends on the pieces."""
    check_same(outcomes(world)[str(run)], outcomes(world)[str(run.reference)], REPLAYED)


@for_each(GRAPHS)
def test_every_stage_draws_the_same_random_numbers_as_stage_0(world: int, run: Run, outcomes: Outcomes) -> None:
    check_same(outcomes(world)[str(run)], outcomes(world)[str(run.reference)], SUMMED)


@for_each([(world, run) for world, run in DROPOUT_OR_BATCH_NORM if run.variant == BATCH_NORM])
def test_batch_norm_statistics_count_every_piece_once(world: int, run: Run, outcomes: Outcomes) -> None:
    found, expected = (outcomes(world)[str(r)]["buffers"] for r in (run, run.reference))
    assert found["image.net.bn1.num_batches_tracked"] == 2 * PIECES[world]  # two steps
    assert found["image.net.bn1.running_mean"].abs().max() > 1e-3
    for name, value in expected.items():
        assert_close(found[name], value, rtol=1e-6, atol=1e-7)


@for_each(BF16)
def test_bf16_differs_from_fp32_only_by_rounding(world: int, run: Run, outcomes: Outcomes) -> None:
    found, exact = outcomes(world)[str(run)], outcomes(1)[str(run.reference)]
    check_same(found, exact, ROUNDED)
    check_same(found, outcomes(world)[str(run._replace(stage=0, mode="plain"))], IN_PIECES)
    # If these were equal, nothing would have been computed in bf16.
    assert max(distance(found, exact, name) for name in exact["gradients"]) > 1e-3
    assert found["terms"] != pytest.approx(exact["terms"], abs=1e-4)


@pytest.mark.parametrize("variant", SAME_IN_PIECES)
def test_the_reference_has_a_nonzero_gradient_for_every_trained_parameter(variant: str, outcomes: Outcomes) -> None:
    """Including temperature and bias; exactly the locked and unused parameters have none."""
    gradients = outcomes(1)[str(Run(variant, 0, "torch"))]["gradients"]
    zero = {name for name, gradient in gradients.items() if not gradient.any()}
    if variant == "three_towers-locked":
        trained = {name for name in gradients if name.startswith("text.head.") or not name.startswith("text.")}
        assert zero == gradients.keys() - trained | {name for name in trained if "_embed" in name}
    elif variant == "cosine-of-images-alone":
        assert zero == {name for name in gradients if name.startswith("text.")} | {"log_scale"}
    else:
        assert not zero


@pytest.mark.parametrize("world", PIECES)
def test_dropout_changes_the_gradients(world: int, outcomes: Outcomes) -> None:
    results = outcomes(world)
    random, plain = results["three_towers-stage0-graph-dropout"], results["three_towers-stage0-plain"]
    for name in ("image.net.head.weight", "text.head.weight"):
        assert distance(random, plain, name) > 0.1


def test_every_piece_has_its_own_dropout_mask_and_the_same_one_when_replayed() -> None:
    run, single = Run("three_towers", 0, "torch", dropout=True), group.Group(0, 1, torch.device("cpu"))
    step = step_worker.step_of(run, single)
    batch = step_worker.batch_of(step_worker.VARIANTS[run.variant], step.objective.needs, 1, single)
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
    for rank, result in enumerate(ranks):
        # One collective for all tensors forward, one backward; none in a group of one process.
        assert result["collectives"] == ((1, 1) if world > 1 else (0, 0))
        for name, gradient in result["gradients"].items():
            assert torch.equal(result["whole"][name], torch.cat([other["local"][name] for other in ranks]))
            count = len(result["local"][name])
            mine = slice(count * rank, count * rank + count)
            assert_close(gradient, torch.stack([other["slopes"][name][mine] for other in ranks]).sum(dim=0))
