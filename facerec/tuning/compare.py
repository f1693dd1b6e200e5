"""Every loss with an equal budget: what each is given, and the table that comes of it.

Each loss has a search of equally many trials and epochs, then several seeds of the best setting
found and of the defaults. Read from the sweeps' files alone: no cluster, no Ray. Over 300 lines,
because the sweeps and the table that is read from them have to agree in every key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from facerec import checkpoint
from facerec.config import ConfigError, TrainConfig, flatten, load, override
from facerec.data.shards import Shards
from facerec.domains import Choice, Domain, IntUniform, LogUniform, Scalar, Uniform
from facerec.evaluation.protocols import EvaluationSet
from facerec.losses import LOSSES, keywords
from facerec.losses.cosface import CosFace
from facerec.tuning import folder as folders
from facerec.tuning import results
from facerec.tuning.sweep import Sweep

SEEDS = (2, 3, 4)  # the search has seed 1
BEST, DEFAULTS = "best", "defaults"
SEEN = "val.tar"  # what the search maximises
UNSEEN = "confirm"  # the split that no search sees
CONFIDENCE = 0.95

# Keys that are lower for few identities than for many.
_LOWERED = (
    *("loss.margin", "loss.margin_low", "loss.margin_high", "loss.scale"),
    *("loss.pair_scale", "backbone.view_dropout"),
)

_SHORT_QUEUE = 2_000  # embeddings

Setting = Mapping[str, Scalar]


def recipe(base: TrainConfig, loss: str) -> TrainConfig:
    """Give a recipe another loss, and what that cannot do without.

    Two views of an image differ by their dropout alone: a loss that compares them gets 0.6, as
    ContraFace has it. A queue of past embeddings is as long as the authors', but not longer than an
    epoch of a small set: older ones are of another network.
    """
    changes: dict[str, Scalar] = {"loss.name": loss}
    if LOSSES[loss].queue_size:
        changes["head.queue_size"] = min(LOSSES[loss].queue_size, _SHORT_QUEUE)
    if _views(loss) > 1:
        changes["backbone.view_dropout"] = 0.6
    return override(base, changes)


def space(loss: str, fixed: Iterable[str] = ()) -> dict[str, Domain]:
    """What is searched for a loss: its own space, and its scale in any case.

    A scale that suits ten thousand identities may not suit a thousand: a loss whose own space
    leaves it out would stand behind for that alone. The same goes for the dropout of two views.

    Args:
        loss: An entry of `LOSSES`.
        fixed: Keys that are not searched.
    """
    found = dict(LOSSES[loss].space)
    if _views(loss) > 1:
        found["backbone.view_dropout"] = Uniform(0.1, 0.7)
    if keywords(loss).get("scale") is not None:
        found.setdefault("loss.scale", CosFace.space["scale"])
    return {key: domain for key, domain in found.items() if key not in set(fixed)}


def _views(loss: str) -> int:
    part = LOSSES[loss].regularizer
    return 1 if part is None else part.views


def points(config: TrainConfig, space: Mapping[str, Domain]) -> tuple[Setting, ...]:
    """What is tried first: the defaults, and these with margin and scale at their lowest.

    Papers tune for ten thousand identities and more; few want a gentle margin and scale.
    """
    flat = flatten(config)
    defaults = {key: flat[key] for key in space}
    gentle = dict(defaults)
    for key in _LOWERED:
        if isinstance(domain := space.get(key), Uniform | LogUniform | IntUniform):
            gentle[key] = domain.low
    return (defaults,) if gentle == defaults else (defaults, gentle)


def search(loss: str, config: TrainConfig, trials: int, fixed: Iterable[str] = ()) -> Sweep | None:
    """The search for a loss's best setting; None where it has nothing to search."""
    keys = space(loss, fixed)
    if not keys:
        return None
    first = points(config, keys)
    return Sweep(loss, config, keys, SEEN, trials, confirm=0, early_stop=False, points=first)


def repeats(
    loss: str,
    config: TrainConfig,
    best: Setting | None = None,
    begun: Iterable[Setting] = (),
    fixed: Iterable[str] = (),
) -> Sweep:
    """The seeds of the defaults, and of the best setting where there is another.

    Args:
        loss: An entry of `LOSSES`.
        config: The config that the search changed.
        best: The search's winner, if it has one.
        begun: Settings, with their seeds, that ran already; they keep their numbers.
        fixed: Keys that were not searched.
    """
    keys = space(loss, fixed)
    flat = flatten(config)
    settings = [{key: flat[key] for key in keys}, *([best] if best is not None else [])]
    wanted = [{**setting, "seed": seed} for setting in settings for seed in SEEDS]
    chosen = list(begun)
    for point in wanted:
        if point not in chosen:
            chosen.append(point)
    return Sweep(
        f"{loss}_seeds",
        config,
        {**keys, "seed": Choice(SEEDS)},
        SEEN,
        len(chosen),
        confirm=0,
        early_stop=False,
        points=tuple(chosen),
    )


def best_setting(folder: Path) -> Setting | None:
    """The searched keys of a search's winner; None where no trial reached its end."""
    trials = results.load(folder).trials
    winners = trials.loc[trials["rank"] == 1, "run"]
    if not len(winners):
        return None
    flat = flatten(load(folder / str(winners.iloc[0]) / "config.json"))
    return {key: flat[key] for key in folders.read(folder)["space"]}


def check_equal(records: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse sweeps that had different budgets, recipes or data.

    Args:
        records: Losses with the `sweep.json` of their seeds.

    Raises:
        ConfigError: Naming what differs, and between which.
    """
    first, wanted = "", dict[str, Any]()
    for loss, record in records:
        # Data is what is in it; a queue is what the loss is about.
        own = {*space(loss), "data.train", "data.eval", "head.queue_size"}
        same = {k: v for k, v in record["base"].items() if k not in own and k[:5] != "loss."}
        same["data"] = record["data"]
        first, wanted = first or loss, {**same, **wanted}
        for key in same:
            if wanted[key] != same[key]:
                raise ConfigError(
                    f"{key} = {same[key]} for {loss}: in this comparison {first} has "
                    f"{wanted[key]}, and losses are compared on the same recipe and data; give "
                    "the same keys, or leave --resume out to begin another comparison"
                )


def seeds_table(folder: Path, loss: str, data: Path) -> pd.DataFrame:
    """The seeds of a loss: `loss, setting, seed, values, status, run`, metrics, `seconds`.

    Where the best setting is the defaults, its rows stand there twice.

    Args:
        folder: The comparison's folder; the sweeps stand in it.
        loss: Whose seeds.
        data: The training shards, whose `confirm` split is measured if there is one.
    """
    sweep = folder / f"{loss}_seeds"
    trials, numbered = results.load(sweep).trials, folders.read(sweep)["points"]
    settings: dict[str, Setting | None] = {DEFAULTS: {}, BEST: {}}
    if (folder / loss / folders.RECORD).exists():
        tried = folders.read(folder / loss)["points"]
        settings = {DEFAULTS: tried[0], BEST: best_setting(folder / loss)}
    known = _measured(folder)
    rows = []
    for number, point in enumerate(numbered):
        trial = trials[trials["trial"] == number].iloc[0]
        run = f"{sweep.name}/{trial['run']}"
        unseen: dict[str, float] = {}
        if trial["status"] == "completed":
            unseen = known.get(run) or _unseen(folder / run, data)
        for setting, values in settings.items():
            if values is not None and {**values, "seed": point["seed"]} == point:
                rows.append(
                    {
                        **{"loss": loss, "setting": setting, "seed": point["seed"]},
                        **{"values": _shown(values), "status": trial["status"], "run": run},
                        **{c: trial[c] for c in map(str, trials) if _is_metric(c)},
                        **unseen,
                        **{c: trial[c] for c in ("epochs", "seconds")},
                    }
                )
    return pd.DataFrame(rows)


def summary(seeds: pd.DataFrame, searches: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The table over all losses, a row for each one's best setting and for its defaults.

    Args:
        seeds: `seeds_table` of all losses, one under the other.
        searches: Loss -> its search's trials; a loss without one had nothing to search.

    Returns:
        `rank` (of the best settings, by `ranked_by`; those that lost a seed come last), `loss`,
        `setting`, `values`, `trials` and `diverged` (of the search), `seeds` (that reached their
        end), `seeds_diverged`, per metric `M` (mean over seeds), `M.std`, `M.low` and `M.high`
        (95 % t interval of the mean), `seconds` (mean of one training).
    """
    rows: list[dict[str, Any]] = []
    for (loss, setting), group in seeds.groupby(["loss", "setting"], sort=False):
        tried = searches.get(str(loss), pd.DataFrame({"status": []}))["status"]
        row: dict[str, Any] = {
            **{"loss": loss, "setting": setting, "values": group["values"].iloc[0]},
            **{"trials": len(tried), "diverged": int((tried == "diverged").sum())},
            "seeds": int((group["status"] == "completed").sum()),
            "seeds_diverged": int((group["status"] == "diverged").sum()),
        }
        done = group[group["status"] == "completed"]
        for metric in metrics(seeds):
            row |= _spread(metric, done[metric].dropna().to_numpy(float))
        rows.append({**row, "seconds": float(group["seconds"].mean())})
    table = pd.DataFrame(rows)
    metric = ranked_by(seeds)
    best = table[(table["setting"] == BEST) & table[metric].notna()]
    best = best.assign(lost=best["seeds_diverged"] > 0)
    best = best.sort_values(["lost", metric], ascending=[True, False], kind="stable")
    ranks = {loss: place for place, loss in enumerate(best["loss"], 1)}
    table["rank"] = pd.Series(table["loss"].map(ranks), dtype="Int64")
    table = table.sort_values(["rank", "loss", "setting"], ignore_index=True)
    table.insert(0, "rank", table.pop("rank").where(table["setting"] == BEST))
    return table


def metrics(seeds: pd.DataFrame) -> list[str]:
    """The scores of a table of seeds, what the search did not see first."""
    found = [column for column in map(str, seeds) if column.endswith((".tar", ".accuracy"))]
    return sorted(found, key=lambda m: (m == SEEN, not m.startswith(f"{UNSEEN}.")))


def ranked_by(seeds: pd.DataFrame) -> str:
    """The metric of the ranking: the first that every complete training has; else what it saw."""
    done = seeds[seeds["status"] == "completed"]
    return next((m for m in metrics(seeds) if len(done) and done[m].notna().all()), SEEN)


def verdict(table: pd.DataFrame, metric: str) -> str:
    """One honest sentence: which losses the winner is told apart from."""
    best = table[table["rank"].notna()].sort_values("rank")
    if len(best) < 2 or math.isnan(float(best[f"{metric}.low"].iloc[0])):
        return "there are not two losses with several complete trainings: nothing to tell apart"
    winner, others = best.iloc[0], best.iloc[1:]
    # A loss with a single complete training has no interval: it is not told apart.
    near = others[~(others[f"{metric}.high"] < winner[f"{metric}.low"])]["loss"].tolist()
    far = [loss for loss in others["loss"] if loss not in near]
    seen = "what the search maximised" if metric == SEEN else "which no search saw"
    count = int(winner["seeds"])
    parts = [f"of {_listed(near)} overlap its own (not distinguishable)"] if near else []
    parts += [f"of {_listed(far)} lie below it"] if far else []
    return (
        f"By {metric} ({seen}), {winner['loss']} comes first with {winner[metric]:.4f}; the "
        f"{CONFIDENCE:.0%} t intervals over {count} seeds {', those '.join(parts)}. All were "
        "measured on the same images: how far other people's would rank them otherwise is not in "
        "these intervals."
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _spread(metric: str, values: NDArray[np.float64]) -> dict[str, float]:
    mean = float(values.mean()) if len(values) else math.nan
    std = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    half = math.nan
    if len(values) > 1:
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
        half = quantile * std / math.sqrt(len(values))
    return {
        metric: mean,
        f"{metric}.std": std,
        f"{metric}.low": mean - half,
        f"{metric}.high": mean + half,
    }


def _unseen(run: Path, data: Path) -> dict[str, float]:
    """A run's metrics on the split that no search saw; none where the shards have no such."""
    shards = Shards(data)
    if UNSEEN not in shards.index["splits"]:
        return {}
    _, backbone = checkpoint.load_backbone(run)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return EvaluationSet(UNSEEN, shards, UNSEEN).measure(backbone.to(device), device).metrics


def _measured(folder: Path) -> dict[str, dict[str, float]]:
    """Run -> its metrics on the unseen split, as far as they were measured before."""
    path = folder / "seeds.parquet"
    if not path.exists():
        return {}
    before = pd.read_parquet(path)
    columns = [column for column in map(str, before) if column.startswith(f"{UNSEEN}.")]
    done = before[before["status"] == "completed"]
    return {row["run"]: {c: float(row[c]) for c in columns} for _, row in done.iterrows()}


def _is_metric(column: str) -> bool:
    return ".tar" in column or column.endswith((".accuracy", ".accuracy_std", ".val@far=1e-3"))


def _shown(values: Setting) -> str:
    parts = []
    for key, value in values.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(f"{key.removeprefix('loss.')}={shown}")
    return " ".join(parts)
