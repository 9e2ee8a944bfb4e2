"""The page in a browser: what dragging, keys, sliders and pictures do, and that nothing goes wrong on the way."""

from __future__ import annotations

import io
import re
import shutil
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowerbound.explorer.latents import Latents, principal_axes
from lowerbound.explorer.serve import listen, server

pytest.importorskip("uvicorn", reason="the extra `explorer` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

# What is drawn on a canvas, one byte a pixel.
DRAWN = """selector => { const shown = document.querySelector(selector);
  const copy = Object.assign(document.createElement('canvas'), { width: shown.width, height: shown.height });
  const pen = copy.getContext('2d', { willReadFrequently: true });
  pen.drawImage(shown, 0, 0);
  return [...pen.getImageData(0, 0, copy.width, copy.height).data].filter((_, i) => i % 4 == 0) }"""
SLIDERS = (
    "() => [...document.querySelectorAll('#sliders input')].sort((a, b) => a.id < b.id ? -1 : 1).map(i => +i.value)"
)
AUDIT = (Path(__file__).parent / "accessible.js").read_text()
PICTURE = "document.querySelector('#points').toDataURL()"
GROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as control:
        chromium = control.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def addresses(digits, people) -> Iterator[dict[str, str]]:
    """A server for each kind of rows, for all tests."""
    running, found = [], {}
    for latents in (digits, people):
        listener = listen(0)
        page, found[latents.name] = server(latents, listener)
        thread = threading.Thread(target=page.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((page, thread, listener))
    yield found
    for page, thread, listener in running:
        page.should_exit = True
        thread.join()
        listener.close()


class Visits:
    """The pages that tests share, one for each kind of rows, and what they have complained of."""

    def __init__(self, browser: playwright.Browser, addresses: dict[str, str]) -> None:
        self.browser, self.addresses = browser, addresses
        self.complaints: list[str] = []
        self.pages: dict[str, playwright.Page] = {}

    def __call__(self, name: str) -> playwright.Page:
        if name not in self.pages:
            context = self.browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="dark")
            context.set_default_timeout(10_000)
            page = self.pages[name] = context.new_page()
            page.on("console", lambda message: self.complaints.append(message.text))
            page.on("pageerror", lambda error: self.complaints.append(str(error)))
            page.goto(self.addresses[name])
            loaded(page)
        return self.pages[name]


@pytest.fixture(scope="module")
def visits(browser, addresses) -> Visits:
    return Visits(browser, addresses)


@pytest.fixture
def visit(visits) -> Iterator[Visits]:
    """Open the page of a kind of rows; at the end of a test, nothing must have been complained of."""
    visits.complaints.clear()
    yield visits
    assert visits.complaints == []


@pytest.fixture
def page(visit) -> playwright.Page:
    return visit("digits")


def loaded(page: playwright.Page) -> None:
    for place in ("path", "nearest", "samples"):
        page.wait_for_selector(f"#{place} button")


def latent(page: playwright.Page) -> list[float]:
    return page.evaluate(SLIDERS)


def decoded(latents: Latents, z: list[float]) -> np.ndarray:
    with torch.no_grad():
        return np.rint(latents.model.decode(torch.tensor([z])).mean[0].numpy() * 255)


def wait_for(page: playwright.Page, latents: Latents) -> None:
    """Wait until what is drawn is what the model decodes at the sliders' values, which are rounded to their steps."""
    for _ in range(60):
        drawn = np.array(page.evaluate(DRAWN, "#decoded canvas")).reshape(8, 8)
        if np.abs(drawn - decoded(latents, latent(page))).max() <= 3:
            return
        page.wait_for_timeout(50)
    pytest.fail("what is drawn is not what the model decodes")


def shown(page: playwright.Page) -> dict[str, float]:
    """Return where the map is, which may have been scrolled away."""
    page.evaluate("scrollTo(0, 0)")
    return page.locator("#map").bounding_box()


def middle(page: playwright.Page) -> tuple[float, float]:
    box = shown(page)
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_token_leaves_the_address_and_the_page_can_be_loaded_again(page):
    assert "token" not in page.url
    page.reload()
    loaded(page)
    assert page.text_content("#run") == "digits"
    assert "3 latents" in page.text_content("#facts")


def test_dragging_decodes_what_is_under_the_pointer(page, digits):
    before = latent(page)
    x, y = middle(page)
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(40):
        page.mouse.move(x + 3 * step, y - step)
    page.mouse.up()
    assert latent(page) != before
    wait_for(page, digits)
    moved = principal(latent(page), digits) - principal(before, digits)
    assert np.abs(moved).max() > 0.05
    left_over = np.subtract(latent(page), before) - moved @ principal_axes(digits.means)[1].numpy()
    np.testing.assert_allclose(left_over, 0, atol=0.02)  # what stands at right angles to the plane stays


def principal(z: list[float], latents: Latents) -> np.ndarray:
    center, axes, _ = principal_axes(latents.means)
    return (np.array(z) - center.numpy()) @ axes.numpy().T


def test_only_the_last_place_is_asked_for_while_an_answer_is_out(page, digits):
    page.wait_for_timeout(200)
    asked: list[playwright.Route] = []
    page.route("**/api/decode", lambda route: asked.append(route))
    page.locator("#map").focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(50)
    assert len(asked) == 1
    asked[0].continue_()
    for _ in range(80):
        if len(asked) == 2:
            break
        page.wait_for_timeout(25)
    assert len(asked) == 2
    np.testing.assert_allclose(asked[1].request.post_data_json["z"][0], latent(page), atol=0.02)
    asked[1].continue_()
    page.unroute("**/api/decode")
    wait_for(page, digits)


def test_keys(page, digits):
    page.locator("#map").focus()
    page.keyboard.press("0")
    np.testing.assert_allclose(latent(page), 0, atol=0.02)
    page.keyboard.press("ArrowRight")
    one = latent(page)
    page.keyboard.press("ArrowLeft")
    np.testing.assert_allclose(latent(page), 0, atol=0.02)
    page.keyboard.press("Shift+ArrowRight")
    np.testing.assert_allclose(latent(page), 5 * np.array(one), atol=0.1)
    assert np.abs(latent(page)).max() > 0.1
    page.keyboard.press("Shift+ArrowUp")
    wait_for(page, digits)
    page.keyboard.press("b")
    for _ in range(40):
        last = np.array(page.evaluate(DRAWN, "#path button:last-child canvas"))
        if np.abs(last - decoded(digits, latent(page)).flatten()).max() <= 3:
            break
        page.wait_for_timeout(50)
    else:
        pytest.fail("the path does not end at the point")
    row = int(digits.nearest(torch.tensor(latent(page)), 1)[0])
    page.keyboard.press("Enter")
    np.testing.assert_allclose(latent(page), digits.means[row], atol=0.02)
    playwright.expect(page.locator("#live")).to_contain_text(f"nearest: row {row}, label")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "chip"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"


def test_neighbours_are_the_nearest_rows(page, digits):
    page.locator("#map").focus()
    page.keyboard.press("Enter")
    nearest = digits.nearest(torch.tensor(latent(page)), 11)[0].tolist()
    first = page.locator("#nearest button").first
    playwright.expect(first).to_have_attribute(
        "aria-label", re.compile(rf"^Row {nearest[0]}, label \d, at distance 0\.00")
    )
    names = [button.get_attribute("aria-label") for button in page.locator("#nearest button").all()]
    assert len(names) == 11
    assert {int(re.match(r"Row (\d+), label (\d)", name)[1]) for name in names} >= set(nearest[:9])
    drawn = page.evaluate(DRAWN, "#nearest button canvas")
    assert drawn == (digits.observed(nearest[:1]) * 255).flatten().tolist()


def test_sliders_move_one_latent_and_the_point(page, digits):
    page.click("#centre")
    before = latent(page)
    page.locator("#latent-2").focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    after = latent(page)
    assert after[1] > before[1] + 0.3
    assert (after[0], after[2]) == (before[0], before[2])
    wait_for(page, digits)


def test_a_click_on_a_row_or_a_tile_takes_its_latents(page, digits):
    tile = page.locator("#samples button").nth(2)
    tile.focus()
    page.keyboard.press("Enter")
    np.testing.assert_allclose(latent(page), digits.sample(22, seed=0)[2].clamp(-3, 3), atol=0.02)
    wait_for(page, digits)
    page.select_option("#view", "axes")
    across, up = page.input_value("#across"), page.input_value("#up")
    page.select_option("#across", up)
    assert page.input_value("#up") == across  # they change places
    page.select_option("#across", "0")
    page.select_option("#up", "1")
    page.click("#zoom-all")
    box = shown(page)
    places = digits.means[:, :2].numpy()
    low, high = places.min(0), places.max(0)
    pad = np.maximum(0.06 * (high - low), 0.1)
    share = ((places[20] - (low - pad)) / (high - low + 2 * pad)).tolist()
    page.mouse.click(
        box["x"] + 52 + share[0] * (box["width"] - 66), box["y"] + box["height"] - 40 - share[1] * (box["height"] - 52)
    )
    np.testing.assert_allclose(latent(page), digits.means[20], atol=0.02)
    page.select_option("#view", "principal")


def test_the_plane_is_decoded_at_places_all_over_it(page, digits):
    sent: list[list[float]] = []

    def note(request: playwright.Request) -> None:
        if request.url.endswith("/api/decode"):
            sent.extend(request.post_data_json["z"])

    page.wait_for_timeout(200)
    before = page.evaluate(PICTURE)
    page.on("request", note)
    page.check("#plane")
    for _ in range(40):
        if page.evaluate(PICTURE) != before:
            break
        page.wait_for_timeout(50)
    center, axes, _ = principal_axes(digits.means)
    places = (np.array(sent) - center.numpy()) @ axes.numpy().T
    columns = len(np.unique(places[:, 0].round(3)))
    rows = len(np.unique(places[:, 1].round(3)))
    assert columns * rows == len(sent) > 100
    assert page.evaluate(PICTURE) != before
    page.uncheck("#plane")
    assert page.evaluate(PICTURE) == before
    page.remove_listener("request", note)


def test_the_focus_stays_on_a_tile_that_is_replaced(page, digits):
    tile = page.locator("#nearest button").nth(3)
    tile.focus()
    row = int(tile.get_attribute("aria-label").split()[1].rstrip(","))
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#nearest button").first).to_have_attribute(
        "aria-label", re.compile(rf"^Row {row},")
    )
    assert page.evaluate("[...document.querySelectorAll('#nearest button')].indexOf(document.activeElement)") == 3


def test_in_a_map_without_a_way_back_the_point_is_a_row(page, digits):
    space = page.request.get(page.url + "api/space").json()
    places = np.random.default_rng(0).normal(size=(60, 2)).astype("<f4")
    page.route("**/api/space", lambda route: route.fulfill(json={**space, "map": True}))
    page.route("**/api/map", lambda route: route.fulfill(body=places.tobytes()))
    page.reload()
    loaded(page)
    page.select_option("#view", "map")
    playwright.expect(page.locator("#map-help")).to_contain_text("the point is always a row")
    x, y = middle(page)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 40)
    page.mouse.up()
    assert np.abs(digits.means.numpy() - latent(page)).max(1).min() < 0.02
    wait_for(page, digits)
    page.unroute("**/api/space")
    page.unroute("**/api/map")
    page.select_option("#view", "principal")


def test_the_keys_are_told(page):
    page.click("#keys")
    playwright.expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#help")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "keys"


def test_a_dropped_picture_is_encoded(page, digits, tmp_path):
    row = digits.rows.rows([5])[0]
    stream = io.BytesIO()
    Image.fromarray((row * 255).byte().numpy()).save(stream, "PNG")
    drop = """bytes => { const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], 'digit.png', { type: 'image/png' }));
      for (const kind of ['dragenter', 'dragover', 'drop'])
        document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })); }"""
    page.evaluate(drop, list(stream.getvalue()))
    page.wait_for_selector("#picture canvas")
    np.testing.assert_allclose(latent(page), digits.means[5], atol=0.02)
    assert page.locator("#drop").is_hidden()
    assert page.evaluate(DRAWN, "#picture canvas") == (row * 255).flatten().tolist()
    wait_for(page, digits)
    (tmp_path / "big.png").write_bytes(bytes(10_000_001))
    page.set_input_files("#file", tmp_path / "big.png")  # it is not even sent
    playwright.expect(page.locator("#picture-trouble")).to_contain_text("more than 10 MB")


def test_what_goes_wrong_is_said(visit, page):
    page.route("**/api/decode", lambda route: route.fulfill(status=401, body="no"))
    page.locator("#map").focus()
    page.keyboard.press("ArrowLeft")
    playwright.expect(page.locator("#trouble")).to_contain_text("The server was started anew")
    page.unroute("**/api/decode")
    page.keyboard.press("ArrowLeft")
    playwright.expect(page.locator("#trouble")).to_be_hidden()
    (complaint,) = visit.complaints
    assert "401" in complaint
    visit.complaints.clear()


def test_a_table_is_shown_as_its_columns(visit):
    page = visit("people")
    assert page.locator("#decoded tbody th").all_inner_texts() == ["age", "city", "visits", "stage", "smoker"]
    before = page.inner_text("#decoded table")
    page.locator("#map").focus()
    for _ in range(8):
        page.keyboard.press("Shift+ArrowUp")
    playwright.expect(page.locator("#decoded table")).not_to_have_text(before, use_inner_text=True)
    cities = page.locator("#decoded .shares").first.locator("b").all_inner_texts()
    assert len(cities) == 6
    assert cities[-1].startswith("3 others ")
    assert abs(sum(int(text.split()[-2]) for text in cities) - 100) <= 3  # each is rounded
    most = page.locator("#decoded .value").nth(1).inner_text()
    assert cities[0].startswith(most)
    assert page.locator("#picture-card").is_hidden()
    assert page.locator("#nearest thead button").count() == 11


@pytest.mark.parametrize("name", ["digits", "people"])
def test_contrast_names_and_sizes_in_the_dark_and_in_the_light(visit, name):
    page = visit(name)
    for theme in ("dark", "light"):
        page.evaluate("theme => (document.documentElement.dataset.theme = theme)", theme)
        ground = sum(map(int, re.findall(r"\d+", page.evaluate(GROUND))))
        assert ground < 100 if theme == "dark" else ground > 600
        assert page.evaluate(AUDIT) == []
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate(AUDIT) == []
    page.set_viewport_size({"width": 1280, "height": 900})


def test_a_theme_that_was_chosen_stays(page):
    before = page.evaluate(GROUND)
    page.click("#theme")
    chosen = page.evaluate(GROUND)
    assert chosen != before
    page.reload()
    loaded(page)
    assert page.evaluate(GROUND) == chosen


def test_decoding_keeps_up_with_a_hand(page):
    page.wait_for_timeout(200)
    times = page.evaluate("""async () => { const took = [];
      for (let k = 0; k < 20; k++) {
        const before = performance.now();
        await (await fetch('/api/decode', { method: 'POST', body: JSON.stringify({ z: [[k / 10, 0, 0]] }) })).blob();
        took.push(performance.now() - before);
      }
      return took }""")
    assert statistics.quantiles(times)[0] < 50  # milliseconds, when the machine has nothing else to do
