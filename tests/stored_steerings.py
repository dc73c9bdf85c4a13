"""Steering files as they were once written: `python -m tests.stored_steerings` writes them anew.

Only a new file format, or a new kind of steering, is a reason to.
"""

from pathlib import Path

import torch

from tests.tiny_steerings import KINDS, made_up

FOLDER = Path(__file__).parent / "data" / "steerings-format-2"


class Shape:
    """All that `made_up` asks of a model."""

    n_layers, d_model, dtype = 3, 8, torch.float32


if __name__ == "__main__":
    for kind in KINDS:
        print(made_up(kind, Shape()).save(FOLDER / kind))
