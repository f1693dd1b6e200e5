"""Which backbone a public checkpoint's tensors are, by their names and shapes.

The nets here carry the authors' own names, so that a checkpoint needs no map of names, only a
prefix cut off (that of the module which held the net) and what lies beside the net left out (a
loss, the classes' weights). What names and shapes do not tell is in `families.FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from facerec.backbones import BACKBONES, build
from facerec.backbones.families import EPSILON, FAMILIES, Family
from facerec.domains import Scalar
from facerec.values import one_of

_MARK = 509  # a length that stands for the embedding's: a prime, so no number of channels
_COUNTERS = "num_batches_tracked"  # old files lack them, and nothing here reads them


@dataclass(frozen=True)
class Recognised:
    """What a checkpoint holds, as the backbones here take it.

    Attributes:
        family: Key of `FAMILIES`.
        backbone: Key of `BACKBONES`.
        args: Keywords for it.
        embedding_size: Length of an embedding.
        state: Its tensors, in its order; numbers in half precision become single precision.
        prefix: What stood before their names.
        left_out: Names of the file's other tensors.
        notes: Sentences to show: what speaks against the family.
    """

    family: str
    backbone: str
    args: Mapping[str, Scalar]
    embedding_size: int
    state: dict[str, Tensor]
    prefix: str
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def facts(self) -> Family:
        """Colours, normalisation and source."""
        return FAMILIES[self.family]


@dataclass(frozen=True)
class _Candidate:
    """A net of a family, and the file's tensors under a prefix beside it; shapes by name."""

    family: str
    backbone: str
    embedding_size: int
    prefix: str
    found: Mapping[str, tuple[int, ...]]

    @property
    def wanted(self) -> dict[str, tuple[int, ...]]:
        shapes = _shapes(self.backbone, self.embedding_size)
        return {k: v for k, v in shapes.items() if not k.endswith(_COUNTERS)}

    @property
    def differences(self) -> int:
        return len(self.wanted.items() ^ self.found.items())

    @property
    def usual(self) -> bool:
        return self.prefix in FAMILIES[self.family].prefixes


def recognise(tensors: Mapping[str, Tensor], family: str | None = None) -> Recognised:
    """Says which backbone a checkpoint's tensors are, of whose making, and gives its state.

    Args:
        tensors: By the file's names.
        family: Key of `FAMILIES`; None: whichever fits.

    Raises:
        ValueError: No net of `BACKBONES` (of the family) has these names and shapes; says which is
            nearest, and the first tensor that differs. Or an unknown family.
    """
    if family is not None:
        one_of("family", family, tuple(FAMILIES))
    candidates = _candidates(tensors, [family] if family else list(FAMILIES))
    fitting = [candidate for candidate in candidates if not candidate.differences]
    if not fitting:
        raise ValueError(_refusal(min(candidates, key=lambda c: c.differences)))
    fit = next((candidate for candidate in fitting if candidate.usual), fitting[0])
    facts = FAMILIES[fit.family]
    names = {name: fit.prefix + name for name in _shapes(fit.backbone, fit.embedding_size)}
    taken = set(names.values())
    state = {
        name: _as_here(name, tensors[theirs], facts) if theirs in tensors else torch.tensor(0)
        for name, theirs in names.items()
    }
    others = sorted({c.family for c in fitting} - {fit.family})
    return Recognised(
        fit.family,
        fit.backbone,
        facts.args,
        fit.embedding_size,
        state,
        fit.prefix,
        tuple(name for name in tensors if name not in taken),
        tuple(_doubts(fit, state, others)) if family is None else (),
    )


def _candidates(tensors: Mapping[str, Tensor], families: list[str]) -> list[_Candidate]:
    found = []
    for family in families:
        facts = FAMILIES[family]
        for begin, of_embedding in facts.nets.items():
            for name in (name for name in BACKBONES if name.startswith(begin)):
                for prefix in _prefixes(tensors, name):
                    last = tensors.get(prefix + of_embedding)
                    size = int(last.shape[0]) if last is not None and last.ndim else 512
                    under = {
                        key.removeprefix(prefix): tuple(tensor.shape)
                        for key, tensor in tensors.items()
                        if key.startswith(prefix) and not key.endswith(_COUNTERS)
                    }
                    own = {k: v for k, v in under.items() if not k.startswith(facts.beside)}
                    found.append(_Candidate(family, name, max(size, 1), prefix, own))
    return found


def _prefixes(tensors: Mapping[str, Tensor], name: str) -> list[str]:
    """What stands before the name of the net's first convolution, the one that sees images."""
    first = next(key for key, shape in _marked_shapes(name).items() if len(shape) == 4)
    ends = [k for k, v in tensors.items() if k.endswith(first) and v.ndim == 4 and v.shape[1] == 3]
    return [end.removesuffix(first) for end in ends] or [""]


def _shapes(name: str, embedding_size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a backbone's tensors by name, in its order."""
    return {
        key: tuple(embedding_size if length == _MARK else length for length in shape)
        for key, shape in _marked_shapes(name).items()
    }


@cache
def _marked_shapes(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = build(name, {}, embedding_size=_MARK).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _as_here(name: str, tensor: Tensor, facts: Family) -> Tensor:
    """The authors' tensor as the net here takes it.

    A normalisation divides by the root of variance and epsilon: what their epsilon has more than
    that of the nets here goes to the variance.
    """
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    if name.endswith("running_var") and facts.epsilon != EPSILON:
        return tensor + (facts.epsilon - EPSILON)
    return tensor


def _doubts(fit: _Candidate, state: Mapping[str, Tensor], others: list[str]) -> list[str]:
    facts = FAMILIES[fit.family]
    notes = []
    if not fit.usual:
        notes.append(
            f"the tensors' names begin with {fit.prefix!r}, unlike in {facts.authors}'s own files: "
            f"whether this net takes {facts.colours} images is not certain"
        )
    ones = state.get(facts.ones)
    if ones is not None and others and bool((ones != 1).any()):
        notes.append(
            f"{facts.ones} is not 1, as {facts.authors}'s training leaves it; the tensors fit "
            f"{' and '.join(others)} as well: name the family if the net is of that one"
        )
    return notes


def _refusal(nearest: _Candidate) -> str:
    """Why no net fits: the nearest, and the first tensor in its order that differs."""
    wanted, found = nearest.wanted, nearest.found
    known = ", ".join(f"{facts.authors}'s" for facts in FAMILIES.values())
    net = f"{FAMILIES[nearest.family].authors}'s {nearest.backbone}"
    for name, shape in wanted.items():
        theirs = nearest.prefix + name
        if name not in found:
            differs = f"the file has no {theirs} {shape}"
            break
        if found[name] != shape:
            differs = f"{theirs} is {found[name]} in the file, {shape} in that net"
            break
    else:
        more = next(name for name in found if name not in wanted)
        differs = f"the file also has {nearest.prefix}{more} {found[more]}"
    return f"no net of {known} has these tensors; the nearest is {net}, but {differs}"
