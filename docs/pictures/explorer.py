"""Draw docs/pictures/explorer.png, the picture of the how-to page, from a run on MNIST with eight latents.

Run: lowerbound train vae --data mnist --latent-dim 8 --hidden 300,300 --epochs 80 --out RUN
     python docs/pictures/explorer.py RUN
"""

import io
import shutil
import sys
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from lowerbound.explorer.latents import Latents
from lowerbound.explorer.serve import listen, server


def main(run: str) -> None:
    """Open the page in Chromium and take its picture."""
    with listen(0) as listener:
        page, address = server(Latents.of_run(run), listener)
        thread = threading.Thread(target=page.run, kwargs={"sockets": [listener]})
        thread.start()
        with sync_playwright() as control:
            chromium = control.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            shown = chromium.new_page(viewport={"width": 1280, "height": 1130}, color_scheme="dark")
            shown.goto(address)
            for place in ("path", "nearest", "samples"):
                shown.wait_for_selector(f"#{place} button")
            shown.wait_for_timeout(500)
            shown.locator("#path button").nth(3).click()
            shown.mouse.move(0, 0)
            shown.wait_for_timeout(700)
            shown.locator("#map").focus()
            shown.keyboard.press("ArrowRight")
            shown.wait_for_timeout(700)
            shown.evaluate("document.activeElement.blur()")
            taken = shown.screenshot()
            chromium.close()
        page.should_exit = True
        thread.join()
    whole = Image.open(io.BytesIO(taken)).convert("RGB")
    whole.quantize(256, dither=Image.Dither.NONE).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
