"""What makes a figure readable: named axes, and texts that neither overlap nor are cut off."""

from __future__ import annotations

import itertools


def texts(figure):
    """All visible texts of a figure with their boxes in pixels; the figure was laid out when it was made."""
    from matplotlib.text import Text

    found = {}
    for text in figure.findobj(Text):
        box = text.get_window_extent()
        on_axis = text.get_visible() and text.get_text().strip() and box.width > 0
        if on_axis and (text.axes is None or text.axes.get_visible()):
            found[text] = box
    for axes in figure.axes:  # ticks outside the view are kept by matplotlib, and not drawn
        for axis, low, high in ((axes.xaxis, *sorted(axes.get_xlim())), (axes.yaxis, *sorted(axes.get_ylim()))):
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                slack = 1e-6 * (high - low)
                hidden = not axes.axison or not low - slack <= tick.get_loc() <= high + slack
                for label in (tick.label1, tick.label2):
                    if hidden or not label.get_visible():
                        found.pop(label, None)
    return found


def check_readable(figure):
    """Every axis in use is named, no two texts overlap, and none is cut off when the figure is saved."""
    boxes = texts(figure)
    for (a, box_a), (b, box_b) in itertools.combinations(boxes.items(), 2):
        overlap_x = min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0)
        overlap_y = min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0)
        # a box is the font's line height: letters themselves leave a pixel free
        assert min(overlap_x, overlap_y) <= 1, f"{a.get_text()!r} overlaps {b.get_text()!r}"
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            shown = [t for t in axis.get_ticklabels() if t in boxes and not t.get_text().startswith(("input", "recon"))]
            shared = [other for other in figure.axes if other is not axes and axis.get_label().get_text() == ""]
            assert not shown or axis.get_label().get_text() or shared, "an axis has numbers but no name"
