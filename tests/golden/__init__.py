"""Checkpoints of earlier versions, and the weights that training them further must lead to."""

from pathlib import Path

FORMAT1 = Path(__file__).resolve().parent / "format1"
