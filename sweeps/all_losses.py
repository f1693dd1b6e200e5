"""Which loss is best when each has the same budget, and which are told apart at all?

Each loss: a search of so many trials, then three seeds of its best setting and of its defaults.
The table ranks them by `confirm`, identities that no search sees. `--losses a,b` compares some
(with `--resume`: adds them to the table that is there); `--smoke` compares two for one epoch.

python sweeps/all_losses.py data.train=shards/faces data.eval=shards/lfw
"""

from facerec.config import override
from facerec.losses import LOSSES
from facerec.presets import laptop
from facerec.tuning.compare import recipe
from facerec.tuning.equal_budget import Comparison, main

COMPARISON = Comparison(
    name="all_losses",
    configs={
        loss: recipe(override(laptop(), {"epochs": 8}), loss)
        for loss in LOSSES
        if loss != "scf"  # it learns how sure a finished embedding is: accuracy stays as it was
    },
    trials=6,
)

if __name__ == "__main__":
    main(COMPARISON)
