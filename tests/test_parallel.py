"""Classes over workers: the arithmetic of shards, and sharded = whole for every loss."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from facerec import checkpoint
from facerec import checkpoint_files as files
from facerec.parallel import ClassShard
from tests import parallel_worker as worker

ROOT = Path(__file__).parent.parent
TOLERANCE = 1e-10


Computed = dict[tuple[int, int], dict[str, Any]]  # (workers, rank) -> what that worker computed


def compute(folder: Path, cases: str) -> Computed:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.parallel_worker", str(folder), str(rank), cases],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(3)
    ]
    try:
        for process in running:
            printed, _ = process.communicate(timeout=400)
            assert process.returncode == 0, printed
    finally:
        for process in running:
            process.kill()
    return {
        (int(path.stem[0]), int(path.stem[2])): torch.load(path, weights_only=True)
        for path in folder.glob("?-?.pt")
    }


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def sharded(pieces: Path) -> Computed:
    return compute(pieces, "quick")


@pytest.fixture(scope="module")
def more_sharded(tmp_path_factory: pytest.TempPathFactory) -> Computed:
    return compute(tmp_path_factory.mktemp("workers"), "slow")


def assert_same(whole: dict[str, torch.Tensor], parts: dict[str, torch.Tensor]) -> None:
    assert whole.keys() == parts.keys()
    for name, theirs in whole.items():
        error = (parts[name].double() - theirs.double()).abs().max()
        assert error <= TOLERANCE * max(1.0, float(theirs.double().abs().max())), name


@pytest.mark.parametrize("case", worker.quick_cases(), ids=str)
def test_sharded_equals_whole(case: worker.Case, sharded: Computed) -> None:
    whole = worker.run(case)
    for results in sharded.values():
        assert_same(whole, results[str(case)])


@pytest.mark.slow
@pytest.mark.parametrize("case", [*worker.quick_cases(), *worker.slow_cases()], ids=str)
def test_more_sharded_equals_whole(case: worker.Case, more_sharded: Computed) -> None:
    assert more_sharded.keys() == {(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)}
    whole = worker.run(case)
    for results in more_sharded.values():
        assert_same(whole, results[str(case)])


def test_a_term_on_norms_counts_once(sharded: Computed) -> None:
    whole = worker.run(worker.Case("cosface"), penalise=worker.norm_penalty)
    for results in sharded.values():
        assert_same(whole, results["penalty"])


def test_a_head_saved_in_pieces_is_cut_for_any_number_of_workers(
    sharded: Computed, pieces: Path
) -> None:
    folder = pieces / "run3/checkpoints/00000001"
    saved = files.check(folder)
    assert saved.pieces == ((0, 4), (4, 7), (7, 10))
    assert not list(folder.glob("worker-*")), "what the workers told each other is gone"
    for whole in (results["saved"] for results in sharded.values()):
        for workers in (1, 2, 3):
            for rank in range(workers):
                shard = ClassShard(10, rank, workers)
                head, optimizer = worker.after_a_step(shard)
                backbone: Any = torch.nn.Linear(2, worker.SIZE)
                checkpoint.load(folder, backbone, head, optimizer)
                momentum = optimizer.state[head.centers]["momentum_buffer"]
                for name, mine in {**head.state_dict(), "momentum": momentum}.items():
                    cut = name == "momentum" or name in head.class_axis
                    expected = shard.cut(whole[name]) if cut else whole[name]
                    assert torch.equal(mine, expected), name


# Gathered: rows per worker, embeddings, labels; a softmax gathers its sums of exponentials too.
# Summed: own cosines, own logits with the ranks; backward, the gradient of the embeddings. The
# binary family sums its others instead, and backward the gradient of a bias that all share.
COLLECTIVES = {  # gathered, summed
    **dict.fromkeys(worker.counted(), (4, 3)),
    # The bias of uniface_bce lives with its classes, and what is reported is its mean.
    **dict.fromkeys(("uniface", "uniface_bce", "sphereface2"), (3, 5)),
    # Centers of the batch's classes, or of all, from wherever they live.
    **dict.fromkeys(("uniformface", "with uniform", "with exclusive"), (4, 4)),
    # A second target, a second sum, a second bias.
    **dict.fromkeys(("unitsface", "with sample_to_sample"), (4, 6)),
    # Centers as they are now; then the second run has cosines, logits and sums of its own.
    "with a queue": (5, 6),
    # No class axis in its sums: the centers of the batch, and the gradient of the embeddings.
    "scf": (3, 2),
}


def test_collectives_per_step(sharded: Computed) -> None:
    for results in sharded.values():
        assert results["collectives"] == {
            name: {"all_gather": gathered, "all_reduce": summed}
            for name, (gathered, summed) in COLLECTIVES.items()
        }


def test_what_workers_share_sums_its_gradient(sharded: Computed) -> None:
    for (size, _), results in sharded.items():
        total = sum(rank + 1.0 for rank in range(size))
        assert results["share"].tolist() == [total, total]


def test_what_workers_all_compute_counts_once(sharded: Computed) -> None:
    for (size, _), results in sharded.items():
        assert results["once"].tolist() == pytest.approx([1 / size, 1 / size])


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 11])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_slices_are_contiguous_and_even(classes: int, workers: int) -> None:
    shards = [ClassShard(classes, rank, workers) for rank in range(workers)]
    held = [c for shard in shards for c in range(shard.start, shard.stop)]
    assert held == list(range(classes))
    assert max(shards[0].sizes) - min(shards[0].sizes) <= 1
    full = torch.arange(classes)
    assert torch.equal(torch.cat([shard.cut(full) for shard in shards]), full)


def test_impossible_shards_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes = 0"):
        ClassShard(0)
    with pytest.raises(ValueError, match="rank = 2: must be 0 to 1"):
        ClassShard(10, 2, 2)


def test_without_a_group_nothing_is_communicated() -> None:
    shard = ClassShard(10, 1, 3)
    x = torch.randn(4, 3)
    assert torch.equal(shard.sum(x), x.sum(1))
    assert shard.all(x) is x
    assert shard.share(x) is x
    assert shard.once(x) is x
    assert shard.gather(x, shard.batch_sizes(x)) is x
    assert torch.equal(shard.collect(x), x)


def test_logsumexp_and_its_gradient() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    shard = ClassShard(4)
    assert torch.autograd.gradcheck(shard.logsumexp, x)
    torch.testing.assert_close(shard.logsumexp(x), x.exp().sum(1).log())


def test_logsumexp_of_a_masked_row_is_minus_infinity_without_nan() -> None:
    x = torch.tensor([[-torch.inf, -torch.inf], [-torch.inf, 2.0]], requires_grad=True)
    total = ClassShard(2).logsumexp(x)
    torch.autograd.backward(total[1:].sum())
    assert total.tolist() == [-torch.inf, 2.0]
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, 0.0], [0.0, 1.0]]
    empty = ClassShard(2).logsumexp(torch.empty(3, 0))
    assert empty.tolist() == [-torch.inf] * 3


def test_columns_find_each_rows_class() -> None:
    shard = ClassShard(10, 1, 3)  # holds 4, 5, 6
    columns = shard.columns(torch.tensor([0, 4, 6, 9]), torch.tensor([6, 0, 5, 4]))
    assert columns.classes.tolist() == [0, 2]
    assert columns.sampled.tolist() == [True, True, False, True]
    assert columns.here.tolist() == [True, False, False, True]
    matrix = torch.arange(8.0).reshape(4, 2)
    assert columns.take(matrix).tolist() == [1.0, 0.0, 0.0, 6.0]
    written = columns.put_(matrix.clone(), -1.0)
    assert written.tolist() == [[0.0, -1.0], [2.0, 3.0], [4.0, 5.0], [-1.0, 7.0]]
