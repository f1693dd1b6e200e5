"""An ONNX file in a backbone's place: measured, embedded with and compared as any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from facerec import mfr
from facerec.backbones.base import Backbone, shrink
from facerec.values import ConfigError

NORMALISATION = "(x - 127.5) / 127.5"
RAW = "none: raw pixels, 0 to 255"


class OnnxBackbone(Backbone):
    """A model that onnxruntime runs on the CPU, with as many threads as PyTorch has.

    Larger square images are shrunk by area to the file's own size. A file without the metadata that
    `facerec export` writes is taken for RGB, normalised by (x - 127.5) / 127.5; raw pixels are fed
    where its first nodes do that by themselves (`mfr.normalises_itself`).

    Args:
        path: The file: one image input (batch, 3, S, S), one output (batch, D), symbolic batch.

    Attributes:
        metadata: The file's metadata, all text.
        colour_order: RGB or BGR.
        normalisation: How the file wants its pixels, `NORMALISATION` or `RAW`.

    Raises:
        ConfigError: The file is missing, or no such model.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ConfigError(f"{path}: no such model file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors: they arrive as exceptions, the rest is noise
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a dozen kinds, none of them exported
            line = str(error).partition("\n")[0]
            raise ConfigError(f"{path}: not an ONNX model that onnxruntime runs ({line})") from None
        inputs, outputs = session.get_inputs(), session.get_outputs()
        shape = list(inputs[0].shape)
        if len(inputs) != 1 or len(outputs) != 1 or len(shape) != 4:
            raise ConfigError(
                f"{path}: has {len(inputs)} inputs, the first {shape}, and {len(outputs)} outputs; "
                "one image input (batch, 3, S, S) and one output (batch, D) are wanted"
            )
        _, colours, height, width = shape
        square = isinstance(width, int) and height == width
        if isinstance(shape[0], int) or colours != 3 or not square:
            raise ConfigError(
                f"{path}: takes {shape}; (batch, 3, S, S) is wanted, with a symbolic batch and a "
                "fixed size S"
            )
        blank = np.zeros((1, 3, height, width), np.float32)
        found = session.run(None, {inputs[0].name: blank})[0]
        if found.ndim != 2 or len(found) != 1:
            raise ConfigError(f"{path}: gives {found.shape} for one image; (1, D) is wanted")
        super().__init__(int(height), int(found.shape[1]))
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.colour_order = self.metadata.get("colour_order", "RGB")
        self.normalisation = self.metadata.get("normalisation") or _guess(path)
        for name, value, known in (
            ("colour_order", self.colour_order, ("RGB", "BGR")),
            ("normalisation", self.normalisation, (NORMALISATION, RAW)),
        ):
            if value not in known:
                raise ConfigError(f"{path}: {name} is {value!r}; known are {', '.join(known)}")
        self._session, self._input = session, inputs[0].name

    def forward(self, images: Tensor, views: int = 1) -> Tensor:
        """Give the embeddings, as every backbone does, without gradients.

        Args:
            images: (b, 3, H, W) RGB in [-1, 1], H = W >= `input_size`.
            views: How often the same embeddings are given: there is no dropout.

        Returns:
            (b, D) for one view, (views, b, D) for more, on the images' device.

        Raises:
            ValueError: Images that are not square, or smaller than `input_size`.
        """
        x = shrink(images.detach().float(), self.input_size)
        if self.colour_order == "BGR":
            x = x.flip(1)
        if self.normalisation == RAW:
            x = x * 127.5 + 127.5
        pixels = x.cpu().contiguous().numpy()
        found: NDArray[np.float32] = self._session.run(None, {self._input: pixels})[0]
        embeddings = torch.from_numpy(found).to(images.device)
        return embeddings if views == 1 else torch.stack([embeddings] * views)


def _guess(path: Path) -> str:
    """The normalisation of a file that does not say it, from its first nodes' names."""
    model = onnx.load(str(path), load_external_data=False)
    return RAW if mfr.normalises_itself(model) else NORMALISATION
