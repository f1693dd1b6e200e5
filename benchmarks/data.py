"""How fast images become batches, as ratios within one run; and what memory that takes.

python benchmarks/data.py [CASE ...] [--shards DIR] [--small]

- `decode`: the stream, shuffled, one decoder thread, against a bare loop of `simplejpeg` over the
  same images, in memory, into one buffer.
- `rows`, `rows_two`: the stream with one and two decoder threads, against PyTorch's `DataLoader` of
  rows that Pillow decodes, without and with two worker processes.
- `decoders`: two decoder threads against one.
- `identities`, `identities_memory`: `sampling=identities` against `images`, both decoding and both
  from `cache=memory`.
- `memory_cache`: the stream from `cache=memory` against one that decodes; and how long building
  the cache takes.
- `trials`: two processes at once, each an epoch, with `cache=memory` against decoding.
- `prepare`: `data_prep recordio` against a plain loop that reads and hashes every record.
- `growth`: the memory of preparing and of streaming 5,000 and 500,000 images, without what is
  mapped from files. It takes some minutes, and 2 GB of disk.

The images are those of DIR, prepared by `data_prep`, without it 4,000 drawn faces; they are written
again and again under other keys until there are 20,000. Each case is a process of its own,
single-threaded but for the decoders. Both sides run in turns; written are the
seconds of five turns, by the clock and of the processor, the ratio of their medians and the
machine's load before and after, to docs/benchmarks/data.json with hardware and commit. Cases that
are named alone replace theirs in that file. `--small` runs at a reduced size and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from data_cases import CASES, Inputs, twenty_thousand
from evaluation_turns import TURNS, load
from hardware import ROOT, surroundings

from facerec.data.writer import write_json

OUT = ROOT / "docs" / "benchmarks" / "data.json"
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; else all")
    parser.add_argument("--shards", type=Path, help="a prepared set; else drawn faces")
    parser.add_argument("--small", action="store_true", help="reduced size; writes nothing")
    parser.add_argument("--here", type=Path, help="one case, in this process, with this folder")
    asked = parser.parse_args()
    for name in asked.cases:
        if name not in CASES:
            parser.error(f"no case {name!r}: takes {', '.join(CASES)}")
    if asked.here:
        found = CASES[asked.cases[0]](Inputs(asked.shards, asked.here, asked.small))
        asked.here.joinpath("found.json").write_text(json.dumps(found))
        return
    keep = asked.cases and not asked.small and OUT.exists()
    results = json.loads(OUT.read_text())["results"] if keep else {}
    with tempfile.TemporaryDirectory(prefix="facerec-benchmark-") as folder:
        shards = asked.shards or _drawn(Path(folder), asked.small)
        shards = twenty_thousand(shards, Path(folder), asked.small)
        for name in asked.cases or CASES:
            results[name] = _child(name, shards, asked.small)
            if not asked.small:
                named = asked.shards.name if asked.shards else "4,000 drawn faces"
                _write({name: results[name] for name in CASES if name in results}, named)


def _drawn(folder: Path, small: bool) -> Path:
    size = ["--identities=40"] if small else ["--identities=400"]
    none = ["--val-identities=0", "--confirm-identities=0"]
    command = [sys.executable, "-m", "data_prep", "synthetic", str(folder / "drawn"), *size, *none]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / "drawn"


def _child(name: str, shards: Path, small: bool) -> dict[str, Any]:
    """One case in a process and a folder of its own."""
    before = load()
    with tempfile.TemporaryDirectory(prefix="facerec-benchmark-") as folder:
        environment = os.environ | dict.fromkeys(VARIABLES, "1") | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__, name, f"--shards={shards}", f"--here={folder}"]
        command += ["--small"] if small else []
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        result: dict[str, Any] = json.loads(Path(folder, "found.json").read_text())
    result["load"] = [before, load()]
    print(f"{name}: {json.dumps(result)}", flush=True)
    return result


def _write(results: dict[str, Any], images: str) -> None:
    described = {
        "command": "python benchmarks/data.py",
        **surroundings("numpy", "torch", "simplejpeg", "pillow", "pyarrow"),
        "images": images,
        "turns": TURNS,
        "results": results,
    }
    write_json(OUT, described)


if __name__ == "__main__":
    main()
