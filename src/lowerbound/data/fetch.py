"""MNIST's four files: where they lie, and how they come when they are missing.

MNIST is by Yann LeCun, Corinna Cortes and Christopher Burges (CC BY-SA 3.0).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from lowerbound.core.errors import DataError, explain
from lowerbound.core.files import user_cache, write_bytes

__all__ = ["CHECKSUMS", "MIRRORS", "cache_folder", "mnist_file", "mnist_folder"]

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")

CHECKSUMS = {  # SHA-256 of the gzipped files
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def mnist_file(name: str) -> Path:
    """Return the path of one of MNIST's files, raw or gzipped; download it if it is nowhere.

    It is looked for in ``$LOWERBOUND_DATA/mnist`` and then in the user's cache directory
    (``$XDG_CACHE_HOME/lowerbound/mnist``, by default ``~/.cache/lowerbound/mnist``), where a download goes too.

    Args:
        name: The name of the file without ``.gz``, one of `CHECKSUMS`.

    Raises:
        DataError: if no mirror sends the file with the right checksum.
    """
    for folder in _folders():
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return _download(name, cache_folder())


def mnist_folder() -> Path | None:
    """Return the folder in which all four files are found, or None; nothing is downloaded."""
    for folder in _folders():
        if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in CHECKSUMS):
            return folder
    return None


def cache_folder() -> Path:
    """Return the folder of the user's into which downloads of MNIST go; it need not exist."""
    return user_cache("mnist")


def _folders() -> Iterator[Path]:
    if data := os.environ.get("LOWERBOUND_DATA"):
        yield Path(data) / "mnist"
    yield cache_folder()


def _download(name: str, folder: Path) -> Path:
    """Fetch a file from the first mirror that sends it unharmed, and put it into a folder whole."""
    failures = []
    for mirror in MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            content = _get(url)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url} failed ({error})")
            continue
        if hashlib.sha256(content).hexdigest() != CHECKSUMS[name]:
            failures.append(f"{url} sent a file with another checksum")
            continue
        target = folder / f"{name}.gz"
        write_bytes(target, content)
        return target
    cure = f"Check the network, or put the file into {folder} or into $LOWERBOUND_DATA/mnist yourself."
    raise DataError(explain(f"MNIST's {name}", expected="a download", got="; ".join(failures), cure=cure))


def _get(url: str) -> bytes:
    """Return what stands at an address, with a progress bar on the error stream while it comes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with urllib.request.urlopen(url, timeout=30) as response, Progress(*columns, console=Console(stderr=True)) as bar:
        length = response.headers.get("Content-Length")
        task = bar.add_task(url.rsplit("/", 1)[-1], total=int(length) if length else None)
        chunks = []
        while chunk := response.read(2**16):
            chunks.append(chunk)
            bar.update(task, advance=len(chunk))
    return b"".join(chunks)
