"""The command line: one file in `facerec/commands` per command. Sweeps have a door of their own."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from facerec import launch
from facerec.commands import compare, embed, evaluate, export, losses, plan, quality, train, verify
from facerec.config import ConfigError
from facerec.data.shards import DataError
from facerec.train import Diverged
from facerec.tree import in_section
from facerec.values import one_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 is good, 2 is for what the user can mend, 130 an interruption."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["train"] and launch.started_together():
        return launch.together(lambda: _outcome(words))
    status, text = _outcome(words)
    if text:
        print(text, file=sys.stderr)
    return status


def _outcome(words: Sequence[str]) -> tuple[int, str]:
    """Run one command; gives its exit status, and what to say on stderr."""
    if not words or words[0] in ("-h", "--help"):
        about = "\n".join(f"  {name:10}{what}" for name, (what, _) in COMMANDS.items())
        print(f"usage: facerec COMMAND ...; facerec COMMAND --help says more\n\n{about}")
        return (0 if words else 2), ""
    name, *rest = words
    try:
        in_section("", lambda: one_of("command", name, tuple(COMMANDS)))
        what, command = COMMANDS[name]
        return command(_Parser(prog=f"facerec {name}", description=what), rest), ""
    except (ConfigError, DataError) as error:
        return 2, f"error: {error}"
    except Diverged as error:
        return 1, f"error: the training diverged: {error}"
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise  # no file of the user's: a mistake of ours
        return 2, f"error: {error.filename or 'a file'}: {error.strerror}"
    except KeyboardInterrupt:
        option = "run=DIR" if launch.started_together() else "--run"
        again = f"; the same command with the same {option} resumes" if name == "train" else ""
        return 130, f"interrupted{again}"


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as all other errors do; the usage is in --help."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} --help says more")


Command = Callable[[argparse.ArgumentParser, Sequence[str]], int]
COMMANDS: dict[str, tuple[str, Command]] = {
    "train": ("Train one model on shards.", train.run),
    "evaluate": ("Measure a run or a model file on prepared sets, with intervals.", evaluate.run),
    "compare": ("Compare two models on the same pairs: is the difference real?", compare.run),
    "export": ("Write a run's backbone as an ONNX file, checked against PyTorch.", export.run),
    "embed": ("Embed prepared shards or a folder of images.", embed.run),
    "quality": ("Rank images by quality; does rejecting the worst lower errors?", quality.run),
    "verify": ("Compare the faces of two images.", verify.run),
    "plan": ("Predict memory, speed and hours of a training or a sweep.", plan.run),
    "losses": (
        "List the losses: keywords, valid ranges, what is worth searching, papers.",
        losses.run,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
