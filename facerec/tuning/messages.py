"""What a trial sends to Tune beside its metrics: `trials` writes it, `search` and `watch` read it.

By itself, so that a trial's process need not load what asks for settings.
"""

OBJECTIVE = "objective"  # the sweep's metric, always finite
OUTCOME = "outcome"  # "" while it runs, or one of the following
FINISHED, DIVERGED, REFUSED, ACCIDENT = "finished", "diverged", "refused", "accident"
TEXT = "text"  # why: of what diverged the typed reason, of the others a sentence
DETAIL = "detail"  # of what diverged, the sentence with the numbers
METRICS = "metrics/"  # prefix of the metrics, as Tune flattens them

WORST = 0.0  # told for what diverged: metrics are fractions, of which none is below
