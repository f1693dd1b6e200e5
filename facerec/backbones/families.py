"""What public checkpoints have in common that their tensors do not tell: one row for each source.

Which pixels the authors fed, in which order of colours, the epsilon of their normalisations, and
what their files hold beside the net. Taken from the authors' code, not from their papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from facerec.domains import Scalar

EPSILON = 1e-5  # of the batch normalisations of the nets here, the transformers' last ones apart


@dataclass(frozen=True)
class Family:
    """What one group of authors' checkpoints have in common.

    Attributes:
        authors: As people call the files.
        source: Repository whose code writes them.
        nets: How the names of its backbones in `BACKBONES` begin, each with the tensor whose first
            axis is as long as an embedding.
        colours: Order of the channels that the nets were trained on: `RGB` or `BGR`.
        mean: What is taken from a pixel of 0 to 255 before it is divided by `std`.
        std: As above.
        epsilon: Of the batch normalisations.
        args: The backbone's keywords that training on as the authors did needs.
        prefixes: What stands before the net's names in the authors' own files.
        beside: How names begin that stand under the same prefix and are not the net's.
        ones: A tensor that the authors' training leaves at 1, where the net has it.
    """

    authors: str
    source: str
    nets: Mapping[str, str]
    colours: str = "RGB"
    mean: float = 127.5
    std: float = 127.5
    epsilon: float = EPSILON
    args: Mapping[str, Scalar] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ("", "module.")
    beside: tuple[str, ...] = ()
    ones: str = ""


# Where tensors fit several, the first whose prefix they carry; then the first.
FAMILIES: dict[str, Family] = {
    "arcface_torch": Family(
        "arcface_torch",
        "deepinsight/insightface",
        {
            "iresnet": "fc.weight",
            "mobilefacenet": "features.layers.2.weight",
            "vit_": "feature.2.weight",
        },
        ones="features.weight",
    ),
    "magface": Family(
        "MagFace",
        "IrvingMeng/MagFace",
        {"iresnet": "fc.weight"},
        colours="BGR",
        mean=0.0,
        std=255.0,
        epsilon=2e-5,
        args={"free_norm": True},
        prefixes=("features.module.", "module.features.", "features."),
    ),
    "adaface": Family(
        "AdaFace",
        "mk-minchul/AdaFace",
        {"ir_": "output_layer.3.weight"},
        colours="BGR",
        prefixes=("model.", "", "module."),
    ),
    "uniface": Family(
        "UniFace",
        "CVI-SZU/UniFace",
        {"lresnet": "fc5.weight"},
        beside=("loss.",),
    ),
    "uniformface": Family(
        "pytorch-uniformface",
        "ka-tsu-mo/pytorch-uniformface",
        {"sphereface": "model.fc.weight"},
        std=128.0,
    ),
}
