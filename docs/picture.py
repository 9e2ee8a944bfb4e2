"""Draw docs/picture.png, the README's picture, from an evaluated run with two latent dimensions.

Run: lowerbound train conv-vae --data mnist --binarize threshold --epochs 20 --out RUN && lowerbound evaluate RUN
     python docs/picture.py RUN
"""

import io
import sys
from pathlib import Path

from PIL import Image

from lowerbound.evaluation import Gallery
from lowerbound.report import figures, style

HEIGHT = 720
GAP = 24


def main(run: str) -> None:
    """Put the manifold and the latent scatter of a run side by side."""
    gallery = Gallery.read(run)
    if gallery is None or gallery.manifold is None:
        sys.exit(f"{run}: expected an evaluated run with two latent dimensions")
    pictures = []
    for figure in (figures.manifold(gallery), figures.latent_scatter(gallery)):
        picture = Image.open(io.BytesIO(style.png(figure))).convert("RGB")
        width = round(picture.width * HEIGHT / picture.height)
        pictures.append(picture.resize((width, HEIGHT), Image.Resampling.LANCZOS))
    whole = Image.new("RGB", (sum(p.width for p in pictures) + GAP, HEIGHT), "white")
    whole.paste(pictures[0], (0, 0))
    whole.paste(pictures[1], (pictures[0].width + GAP, 0))
    whole.quantize(128).save(Path(__file__).with_name("picture.png"), optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
