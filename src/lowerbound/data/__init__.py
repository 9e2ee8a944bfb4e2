"""Data to train on and to evaluate on: built-in sets, files, binarisation and splits."""

from lowerbound.data.builtin import digits, four_points, mnist
from lowerbound.data.dataset import Dataset
from lowerbound.data.sources import SOURCES, load, load_all

__all__ = ["SOURCES", "Dataset", "digits", "four_points", "load", "load_all", "mnist"]
