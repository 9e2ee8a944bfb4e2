"""The server: whom it answers, what it refuses, and that its answers are the model's own."""

from __future__ import annotations

import hmac
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from lowerbound.explorer.latents import Latents, principal_axes

pytest.importorskip("starlette", reason="the extra `explorer` is not installed")

from starlette.testclient import TestClient

from lowerbound.explorer import server

TOKEN = "a-token_of-the-tests"
HERE = "http://127.0.0.1:8642"


def stranger(latents: Latents, base: str = HERE) -> TestClient:
    """Return a client that has not been given the address."""
    return TestClient(server.application(latents, token=TOKEN), base_url=base)


def friend(latents: Latents) -> TestClient:
    """Return a client that has opened the page, and carries its cookie."""
    client = stranger(latents)
    assert client.get("/", params={"token": TOKEN}).status_code == 200
    return client


@pytest.fixture(scope="module")
def client(digits):
    return friend(digits)


@pytest.fixture(scope="module")
def table_client(people):
    return friend(people)


def pixels(response) -> np.ndarray:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(response.content)))


def png(picture: Image.Image) -> bytes:
    with io.BytesIO() as stream:
        picture.save(stream, "PNG")
        return stream.getvalue()


# --- Whom it answers --------------------------------------------------------------------------------------------------

PATHS = ["/", "/static/main.js", "/api/space", "/api/latents", "/nothing"]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_told_without_the_token(digits, path):
    client = stranger(digits)
    for query in ({}, {"token": ""}, {"token": TOKEN[:-1]}, {"token": "é"}):
        answer = client.get(path, params=query)
        assert answer.status_code == 401
        assert "lowerbound explore" in answer.text
        assert "set-cookie" not in answer.headers
    client.cookies.set("lowerbound-8642", "wrong")
    assert client.get(path).status_code == 401
    assert client.post("/api/decode", json={"z": [[0, 0, 0]]}).status_code == 401


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_site_can_use(digits):
    client = stranger(digits)
    answer = client.get("/", params={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert cookie == f"lowerbound-8642={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert TOKEN not in answer.text
    for path in PATHS[:-1]:
        again = client.get(path)
        assert again.status_code == 200
        assert "set-cookie" not in again.headers
    assert client.get("/nothing").status_code == 404
    assert client.get("/api/space", params={"token": "wrong"}).status_code == 200


def test_the_token_in_the_address_is_for_the_page_alone(digits):
    assert stranger(digits).get("/api/space", params={"token": TOKEN}).status_code == 401


def test_tokens_are_compared_in_constant_time(digits, monkeypatch):
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or False)
    assert stranger(digits).get("/", params={"token": TOKEN}).status_code == 401
    assert (TOKEN.encode(), TOKEN.encode()) in compared


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8642", "192.168.0.7:8642", "", "[::]:8642"])
def test_another_host_is_refused_even_with_the_token(digits, host):
    client = friend(digits)
    assert client.get("/api/space", headers={"host": host}).status_code == 400
    assert client.get("/", params={"token": TOKEN}, headers={"host": host}).status_code == 400


def test_localhost_is_this_machine_too(digits):
    assert stranger(digits, "http://localhost:9000").get("/", params={"token": TOKEN}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9999", "https://127.0.0.1:8642", "null"])
def test_a_page_of_another_origin_is_refused(client, origin):
    question = {"z": [[0.0, 0.0, 0.0]]}
    assert client.post("/api/decode", json=question, headers={"origin": origin}).status_code == 403
    assert client.post("/api/decode", json=question, headers={"origin": HERE}).status_code == 200


def test_every_answer_forbids_what_the_page_does_not_need(client, digits):
    for answer in (client.get("/"), client.get("/nothing"), stranger(digits).get("/")):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(client):
    html = client.get("/").text
    assert "style=" not in html
    assert " on" not in html.replace(" on ", "").replace(" one ", "")
    for name in ("index.html", "main.js", "map.js", "style.css"):
        text = client.get("/" if name == "index.html" else f"/static/{name}").text
        assert "http://" not in text
        assert "https://" not in text


@pytest.mark.parametrize("path", ["../server.py", "%2e%2e/server.py", "/etc/passwd", ""])
def test_no_address_is_a_path(client, path):
    assert client.get(f"/static/{path}").status_code == 404


# --- What it answers --------------------------------------------------------------------------------------------------


def test_space(client, digits):
    space = client.get("/api/space").json()
    assert (space["n"], space["dims"], space["shape"], space["pictures"]) == (60, 3, [8, 8], True)
    names = [space["labels"]["names"][code] for code in space["labels"]["codes"]]
    assert names == [str(label) for label in digits.labels.tolist()]
    assert len(space["labels"]["light"]) == len(space["labels"]["dark"]) == len(space["labels"]["names"])
    center, axes, _ = principal_axes(digits.means)
    np.testing.assert_allclose(space["principal"]["center"], center, rtol=1e-6)
    np.testing.assert_allclose(space["principal"]["axes"], axes, rtol=1e-6)
    np.testing.assert_allclose(space["spreads"], digits.means.std(0, correction=0), rtol=1e-6)
    means = np.frombuffer(client.get("/api/latents").content, dtype="<f4").reshape(60, 3)
    np.testing.assert_array_equal(means, digits.means)


def test_a_decode_is_the_models_own(client, digits):
    z = torch.randn(5, 3)
    shown = pixels(client.post("/api/decode", json={"z": z.tolist()}))
    with torch.no_grad():
        means = digits.model.decode(z).mean
    assert shown.shape == (8, 40)
    for k in range(5):
        np.testing.assert_array_equal(shown[:, 8 * k : 8 * k + 8], (means[k] * 255).round())


def test_rows_and_neighbours(client, digits):
    shown = pixels(client.post("/api/rows", json={"rows": [9, 0]}))
    np.testing.assert_array_equal(shown, torch.cat(list(digits.rows.rows([9, 0])), 1) * 255)
    found = client.post("/api/nearest", json={"z": digits.means[9].tolist(), "k": 4}).json()
    assert found["rows"] == digits.nearest(digits.means[9], 4)[0].tolist()
    assert found["distances"][0] == pytest.approx(0, abs=1e-6)


def test_samples(client, digits):
    drawn = client.post("/api/sample", json={"n": 6, "seed": 2}).json()["z"]
    np.testing.assert_allclose(drawn, digits.sample(6, seed=2), rtol=1e-6)


def test_a_row_that_is_given_as_a_picture_gets_that_rows_latents(client, digits):
    row = digits.rows.rows([11])[0]
    content = png(Image.fromarray((row * 255).byte().numpy()))
    answer = client.post("/api/encode", content=content)
    z = json.loads(answer.headers["latents"])
    np.testing.assert_allclose(z, digits.means[11], atol=1e-4)
    shown = pixels(answer)
    np.testing.assert_array_equal(shown[:, :8], row * 255)
    with torch.no_grad():
        decoded = digits.model.decode(digits.means[11:12]).mean[0] * 255
    np.testing.assert_allclose(shown[:, 8:], decoded, atol=1)
    negative = Image.eval(Image.open(io.BytesIO(content)), lambda v: 255 - v)
    again = client.post("/api/encode", params={"invert": 1}, content=png(negative))
    assert json.loads(again.headers["latents"]) == z


def test_a_table(table_client, people):
    space = table_client.get("/api/space").json()
    assert [column["name"] for column in space["columns"]] == ["age", "city", "visits", "stage", "smoker"]
    assert "labels" not in space
    z = torch.randn(2, 2)
    cells = table_client.post("/api/decode", json={"z": z.tolist()}).json()["rows"]
    mean = people.decode(z).mean
    assert cells[1][0]["value"] == pytest.approx(float(mean[1, 0]), rel=1e-5)
    assert sum(cells[1][1]["shares"]) == pytest.approx(1, abs=2e-4)
    assert table_client.post("/api/rows", json={"rows": [0]}).json()["rows"][0][1] is None
    refused = table_client.post("/api/encode", content=png(Image.new("L", (8, 8))))
    assert "picture: expected a model of images, got one of tables" in refused.json()["error"]


def test_far_away_from_all_rows_an_answer_is_still_an_answer(table_client, client):
    z = [[1e38, -1e38]]
    assert len(table_client.post("/api/decode", json={"z": z}).json()["rows"][0]) == 5
    pixels(client.post("/api/decode", json={"z": [[*z[0], 0.0]]}))


def test_one_latent():
    latents = Latents(tiny.vae(latent_dim=1), tiny.rows())
    client = friend(latents)
    space = client.get("/api/space").json()
    assert space["dims"] == 1
    assert "principal" not in space
    assert len(client.post("/api/decode", json={"z": [[0.5]]}).json()["rows"][0]) == tiny.WIDTH


def test_the_time_is_told(client):
    answer = client.post("/api/decode", json={"z": [[0, 0, 0]]})
    assert 0 < float(answer.headers["server-timing"].removeprefix("compute;dur=")) < 1000


# --- What it refuses --------------------------------------------------------------------------------------------------

MISTAKES = {
    "too short": ("decode", {"z": [[0.0, 0.0]]}, "z: expected 1 to 64 vectors of 3 finite numbers"),
    "ragged": ("decode", {"z": [[0, 0, 0], [0]]}, "z: expected"),
    "flat": ("decode", {"z": [0, 0, 0]}, "z: expected"),
    "none": ("decode", {"z": []}, "z: expected"),
    "absent": ("decode", {}, "z: expected"),
    "text": ("decode", {"z": "abc"}, "z: expected"),
    "too many": ("decode", {"z": [[0, 0, 0]] * 65}, "z: expected"),
    "huge": ("decode", {"z": [[1e300, 0, 0]]}, "z: expected"),
    "a row that is not there": ("rows", {"rows": [60]}, "rows: expected 0 to 59, got 60"),
    "a negative row": ("rows", {"rows": [-1]}, "rows: expected 0 to 59, got -1"),
    "no integer": ("rows", {"rows": [0.5]}, "rows: expected 1 to 64 integers"),
    "no rows": ("rows", {"rows": []}, "rows: expected 1 to 64 integers"),
    "too many rows": ("rows", {"rows": [0] * 65}, "rows: expected 1 to 64 integers"),
    "no neighbours": ("nearest", {"z": [0, 0, 0], "k": 0}, "k: expected 1 to 64, got 0"),
    "too many samples": ("sample", {"n": 65}, "n: expected 1 to 64, got 65"),
    "a seed": ("sample", {"n": 1, "seed": -1}, "seed: expected 0 to 2147483647, got -1"),
    "a list": ("decode", [1], "request: expected an object, got list"),
}


@pytest.mark.parametrize("path, question, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_explained(client, path, question, message):
    answer = client.post(f"/api/{path}", json=question)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"z": [[NaN, 0, 0]]}', b"[" * 500_000])
def test_what_is_no_json(client, content):
    answer = client.post("/api/decode", content=content)
    assert answer.status_code == 400
    assert "expected" in answer.json()["error"]


def test_sizes_are_limited_whatever_the_header_says(client):
    def pieces():
        for _ in range(11):
            yield bytes(1_000_000)

    for content in (bytes(server.MOST_BYTES + 1), pieces()):
        answer = client.post("/api/encode", content=content)
        assert answer.status_code == 413
        assert answer.json()["error"] == "request: expected at most 10 MB, got more. Make it smaller."
    assert client.post("/api/decode", content=bytes(4_000_001)).status_code == 413
    assert client.post("/api/encode", content=bytes(server.MOST_BYTES)).status_code == 400  # no picture


def test_methods(client):
    assert client.get("/api/decode").status_code == 405
    assert client.post("/api/space").status_code == 405


def test_umap_that_is_not_installed(client):
    if not client.get("/api/space").json()["map"]:
        assert "pip install umap-learn" in client.get("/api/map").json()["error"]
