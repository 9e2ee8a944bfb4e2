"""Data to train on and to evaluate on: built-in sets, files, binarisation and splits."""

from lowerbound.data.builtin import digits, four_points, mnist
from lowerbound.data.cells import write_cells
from lowerbound.data.dataset import Dataset
from lowerbound.data.schema import Column, decode, write_schema
from lowerbound.data.sources import SOURCES, has_labels, load, load_all

__all__ = [
    "SOURCES",
    "Column",
    "Dataset",
    "decode",
    "digits",
    "four_points",
    "has_labels",
    "load",
    "load_all",
    "mnist",
    "write_cells",
    "write_schema",
]
