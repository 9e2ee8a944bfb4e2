"""What people look at: figures, tables, and one page that holds them all and needs no network."""

from lowerbound.report import figures, tables
from lowerbound.report.compare import Comparison, compare
from lowerbound.report.sheet import write_sheet
from lowerbound.report.tiles import is_image
from lowerbound.report.write import write

__all__ = ["Comparison", "compare", "figures", "is_image", "tables", "write", "write_sheet"]
