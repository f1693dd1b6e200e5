"""Trainings past saving: seen within 50 steps, with a typed reason and the last steps kept.

Every step leaves one row of numbers in a ring on the device. Each tenth step a copy of the ring
sets out for the host, and is read ten steps later, when it has long arrived: no step waits. What is
read, and when, depends on the step's number alone, and all workers read the rows of rank 0, so they
stop together.

The reasons, in the order in which they win where two are met at one step:

- `nan_loss`: the loss is not a finite number.
- `inf_gradient`: the norm of the gradient is not, while the loss still is. With `precision=fp16`
  that is no reason: such a step is passed over, and the next loss is scaled less.
- `scaler_collapse`: with `precision=fp16`, the loss's scale was halved until it fell below 1. From
  its start that takes 17 steps in a row without a finite gradient; a loss that is not even scaled
  should have one.
- `exploding_centers`: a center is longer than 10,000. Where cosines are compared, it turns by
  rate / length² and stands still, and weight decay needs tens of thousands of steps to bring it
  back. The longest after 231 trainings of 20 losses (docs/results/all_losses.md) had 3.2; where
  UniformFace draws centers towards raw embeddings, these were 19 long.
- `collapsed_embeddings`: for 25 steps all embeddings of the batch pointed one way (mean cosine of
  its pairs over 1 - 1e-6, where single precision ends) or had no length. Less would be wrong: nets
  that end in a batch normalisation start near 0, but those that do not start up to 0.97
  (`sphereface64`), and `sphereface20` came to 0.999 within its first 45 steps on real faces. The
  first ten steps do not count.
- `bias_out_of_range`: for 25 steps the mean bias was beyond `Objective.bias_limit`, from where no
  logit depends on its cosine. The 231 trainings stayed below a third of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from facerec.data.writer import write_table
from facerec.parallel import ClassShard

NAME = "last_steps.parquet"
KEPT = 50  # rows of the file
LOOK_EVERY = 10  # steps between two copies, and from a copy to its reading
STREAK = 25  # steps in a row; with two times LOOK_EVERY below 50
FIRST = 10  # steps of which a net may still leave a collapse by itself

LONGEST_CENTER = 1e4
LARGEST_PAIR_COS = 1 - 1e-6
SMALLEST_SCALE = 1.0
SHORTEST_NORM = 1e-5  # below it `losses.base.unit` knows no direction

_ROWS = KEPT + LOOK_EVERY  # a step is read in a copy that is at most LOOK_EVERY steps younger

Steps = Mapping[str, NDArray[Any]]


class Diverged(RuntimeError):
    """The training broke down.

    Attributes:
        reason: One of the typed reasons (`facerec.divergence`).
        step: The step that met it, from 1.
        text: A sentence with the numbers.
    """

    def __init__(self, reason: str, step: int, text: str = "") -> None:
        super().__init__(f"{reason} at step {step}" + (f": {text}" if text else ""))
        self.reason, self.step, self.text = reason, step, text

    def __reduce__(self) -> tuple[type[Diverged], tuple[str, int, str]]:
        return Diverged, (self.reason, self.step, self.text)


class _Copy(NamedTuple):
    """A copy of the ring under way: its rows, when they have arrived, and what they are."""

    rows: Tensor
    arrived: torch.cuda.Event | None
    names: tuple[str, ...]
    steps: NDArray[np.int64]
    rates: NDArray[np.float64]


class StepWatch:
    """The last steps of a training, and whether it still makes sense to go on.

    `last_steps.parquet`, written only where a training diverged, has up to 50 rows, oldest first,
    the last one the step that met the reason: `step` (from 1), `learning_rate`, `loss`,
    `loss.<term>`, `train.<statistic>` as in the history, but of one batch; `pair_cos` (mean cosine
    of the batch's pairs), `bias_reach` (bias over its limit), `gradient_norm` (before clipping;
    without it, of the backbone alone), `loss_scale` (with `precision=fp16`) and `longest_center`
    (Euclidean, each tenth step). What was not measured at a step is NaN.

    Args:
        shard: Which classes this worker holds.
        centers: Their centers (C, D), the parameter itself.
        run: Run folder to write into; None writes nothing. A file of an earlier attempt goes.
    """

    def __init__(self, shard: ClassShard, centers: Tensor, *, run: Path | None = None) -> None:
        self._shard, self._centers, self._run = shard, centers, run
        self._names: list[str] = []
        self._missing = torch.full((), torch.nan, dtype=torch.float64, device=centers.device)
        self._ring = self._missing.repeat(_ROWS, 0)
        self._steps = np.zeros(_ROWS, np.int64)  # 0: an unused row
        self._rates = np.zeros(_ROWS)
        self._on_its_way: _Copy | None = None
        if run is not None:
            (run / NAME).unlink(missing_ok=True)

    def note(self, step: int, rate: float, values: Mapping[str, Tensor]) -> None:
        """Keep the numbers of a step; each tenth time, read those of earlier ones.

        Args:
            step: Its number, from 1.
            rate: Its learning rate.
            values: Column -> number (0-d, detached), the same on all workers.

        Raises:
            Diverged: On all workers at the same step.
        """
        look = step % LOOK_EVERY == 0
        row = {**values, "longest_center": self._longest()} if look else values
        if new := [name for name in row if name not in self._names]:
            self._names += new
            self._ring = F.pad(self._ring, (0, len(new)), value=torch.nan)
        place = step % _ROWS
        self._ring[place] = torch.stack(
            [row[name].double() if name in row else self._missing for name in self._names]
        )
        self._steps[place], self._rates[place] = step, rate
        if look:
            before, self._on_its_way = self._on_its_way, self._copy()
            self._judge(self._on_its_way if self._on_its_way.arrived is None else before)

    def check(self) -> None:
        """Read all steps so far, before they are saved; waits for the device.

        Raises:
            Diverged: On all workers.
        """
        self._judge(self._copy())

    def _longest(self) -> Tensor:
        """The length of the longest center on any worker (0-d); infinite where one is NaN."""
        centers = self._centers.detach()
        longest = self._missing.new_zeros(())
        if len(centers):
            longest = torch.linalg.vector_norm(centers, dim=1).amax().double()
            longest = longest.nan_to_num(nan=torch.inf, posinf=torch.inf)
        if self._shard.world_size > 1:
            dist.all_reduce(longest, dist.ReduceOp.MAX)
        return longest

    def _copy(self) -> _Copy:
        if self._shard.world_size > 1:
            dist.broadcast(self._ring, src=0)  # a last bit of difference must not part the workers
        known = (tuple(self._names), self._steps.copy(), self._rates.copy())
        if self._ring.device.type != "cuda":
            return _Copy(self._ring.clone(), None, *known)
        rows = torch.empty(self._ring.shape, dtype=self._ring.dtype, pin_memory=True)
        rows.copy_(self._ring, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(self._ring.device))
        return _Copy(rows, arrived, *known)

    def _judge(self, copy: _Copy | None) -> None:
        if copy is None:
            return
        if copy.arrived is not None:
            copy.arrived.synchronize()  # long over, unless the host is that far ahead
        order = np.argsort(copy.steps)
        order = order[copy.steps[order] > 0]
        rows = copy.rows.numpy()[order]
        columns = {name: rows[:, i] for i, name in enumerate(copy.names)}
        steps = {"step": copy.steps[order], "learning_rate": copy.rates[order], **columns}
        found = diagnose(steps)
        if found is None:
            return
        reason, last, text = found
        text += f" (learning rate {steps['learning_rate'][last]:.3g})"
        try:
            if self._run is not None:
                kept = {name: c[max(last + 1 - KEPT, 0) : last + 1] for name, c in steps.items()}
                table = pa.table(kept)
                write_table(self._run / NAME, table.schema, [table])
        except OSError as error:  # a full disk does not make an accident of it
            text += f"; {NAME} could not be written: {error}"
        if self._shard.world_size > 1:
            dist.barrier()  # none ends the others' processes before the file is whole
        raise Diverged(reason, int(steps["step"][last]), text)


def diagnose(steps: Steps) -> tuple[str, int, str] | None:
    """Find the first of successive steps at which a training is past saving.

    Args:
        steps: Column -> its values (N,), oldest first, as `StepWatch` keeps them; `step` is there,
            others may be missing.

    Returns:
        The reason, the row, and a sentence with the numbers; None where all is well.
    """

    def column(name: str) -> NDArray[Any]:
        return steps.get(name, np.full(len(steps["step"]), np.nan))

    loss, gradient, center = column("loss"), column("gradient_norm"), column("longest_center")
    cos, norm, reach = column("pair_cos"), column("train.norm"), column("bias_reach")
    scale = column("loss_scale")
    with np.errstate(invalid="ignore"):
        alike = ((cos > LARGEST_PAIR_COS) | (norm < SHORTEST_NORM)) & (steps["step"] > FIRST)
        met = {
            "nan_loss": _not_finite(steps, "loss"),
            "inf_gradient": _not_finite(steps, "gradient_norm") & np.isnan(scale),
            "scaler_collapse": scale < SMALLEST_SCALE,
            "exploding_centers": center > LONGEST_CENTER,
            "collapsed_embeddings": _in_a_row(alike),
            "bias_out_of_range": _in_a_row(reach >= 1),
        }
    firsts = {reason: int(np.argmax(rows)) for reason, rows in met.items() if rows.any()}
    if not firsts:
        return None
    reason = min(firsts, key=lambda name: firsts[name])  # of equals, the first
    i = firsts[reason]
    text = {
        "nan_loss": f"the loss is {loss[i]:.4g}{_before(loss, i)}",
        "inf_gradient": (
            f"the gradient's norm is {gradient[i]:.4g}{_before(gradient, i)}, "
            f"at a loss of {loss[i]:.4g}"
        ),
        "scaler_collapse": (
            f"the loss's scale is {scale[i]:.4g}: the gradient was infinite again and again, at a "
            f"loss of {loss[i]:.4g}"
        ),
        "exploding_centers": (
            f"the longest center has length {center[i]:.4g}, over {LONGEST_CENTER:,.0f}"
        ),
        "collapsed_embeddings": (
            f"for {STREAK} steps all embeddings of the batch were alike: the mean cosine of its "
            f"pairs is {cos[i]:.8f}, their mean length {norm[i]:.4g}"
        ),
        "bias_out_of_range": (
            f"for {STREAK} steps the bias was too far out for a cosine to matter: "
            f"{column('train.bias')[i]:.4g}, {reach[i]:.3g} times its limit"
        ),
    }
    return reason, i, text[reason]


def _not_finite(steps: Steps, name: str) -> NDArray[np.bool_]:
    """Where a column that is there holds no number."""
    if name not in steps:
        return np.zeros(len(steps["step"]), np.bool_)
    return np.asarray(~np.isfinite(steps[name]), np.bool_)


def _in_a_row(met: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where something held at this step and the STREAK - 1 before it."""
    length, found = 0, np.zeros(len(met), np.bool_)
    for i, holds in enumerate(met):
        length = length + 1 if holds else 0
        found[i] = length >= STREAK
    return found


def _before(values: NDArray[Any], i: int) -> str:
    return f" after {values[i - 1]:.4g}" if i else ""
