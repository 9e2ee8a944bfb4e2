"""The sets that need no path: digits, MNIST and the four points."""

from __future__ import annotations

import torch

from lowerbound.core.errors import ArgumentError, DataError, explain
from lowerbound.data.binarize import check
from lowerbound.data.dataset import Dataset
from lowerbound.data.fetch import mnist_file
from lowerbound.data.idx import read_idx

__all__ = ["digits", "four_points", "mnist"]


def digits(*, binarize: str = "dynamic", seed: int = 0, test_fraction: float = 0.2) -> tuple[Dataset, Dataset]:
    """Return scikit-learn's 1797 handwritten digits: 8 x 8 pixels with 17 levels k/16.

    Args:
        binarize: ``"none"``, ``"threshold"``, ``"dynamic"`` or ``"static"``.
        seed: The seed of the split and of the binarisation.
        test_fraction: The share of rows in the test split.

    Returns:
        The train and the test split, ``event_shape`` (8, 8), with labels 0 to 9.

    Raises:
        ArgumentError: if `binarize` is no known name or the fraction is not between 0 and 1.

    Reference:
        Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998.

    Example:
        >>> train, test = digits()
        >>> len(train), len(test), train.event_shape, train.levels, train.binary
        (1438, 359, (8, 8), 17, True)
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    whole = Dataset(
        torch.from_numpy(bunch.images).to(torch.uint8),
        name="digits",
        labels=torch.from_numpy(bunch.target),
        levels=17,
        binarize=binarize,
        seed=seed,
    )
    return whole.split_off(test_fraction, seed=seed, name="test")


def mnist(*, binarize: str = "dynamic", seed: int = 0) -> tuple[Dataset, Dataset]:
    """Return MNIST: 28 x 28 pixels with 256 levels k/255, 60000 rows to train on and 10000 to test on.

    The files are found in ``$LOWERBOUND_DATA/mnist``, else in the user's cache directory, else downloaded there.

    Args:
        binarize: ``"none"``, ``"threshold"``, ``"dynamic"`` or ``"static"``.
        seed: The seed of the binarisation.

    Returns:
        The train and the test split, ``event_shape`` (28, 28), with labels 0 to 9.

    Raises:
        ArgumentError: if `binarize` is no known name.
        DataError: if a file is damaged or cannot be downloaded, or if images and labels do not fit together.

    Reference:
        LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.
    """
    check(binarize)
    train, test = (
        _mnist_split(prefix, split, binarize, seed) for prefix, split in (("train", "train"), ("t10k", "test"))
    )
    return train, test


def _mnist_split(prefix: str, split: str, binarize: str, seed: int) -> Dataset:
    paths = mnist_file(f"{prefix}-images-idx3-ubyte"), mnist_file(f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(paths[0], axes=3), read_idx(paths[1], axes=1)
    cure = "Delete both files and fetch them again."
    if images.shape[1:] != (28, 28):
        raise DataError(explain(str(paths[0]), expected="28 x 28 pixels", got=list(images.shape[1:]), cure=cure))
    if len(labels) != len(images):
        expected = f"{len(images)} labels, one for each image"
        raise DataError(explain(str(paths[1]), expected=expected, got=f"{len(labels)} labels", cure=cure))
    if int(labels.max()) > 9:
        raise DataError(explain(str(paths[1]), expected="labels 0 to 9", got=int(labels.max()), cure=cure))
    return Dataset(images, name="mnist", split=split, labels=labels, levels=256, binarize=binarize, seed=seed)


def four_points(*, rows: int = 5120) -> tuple[Dataset, Dataset]:
    """Return the four points of four pixels, each with one pixel lit, over and over.

    The entropy of the data is log 4 = 1.386 nats, so no model can do better than -1.386 nats a row.

    Args:
        rows: Rows in each split, a multiple of 4; row i is point i mod 4.

    Returns:
        The train and the test split, which are equal, ``event_shape`` (4,), with labels 0 to 3.

    Raises:
        ArgumentError: if `rows` is not a positive multiple of 4.

    Reference:
        Mescheder, Nowozin and Geiger, "Adversarial variational Bayes", 2017 (its synthetic example).

    Example:
        >>> train, test = four_points()
        >>> test.rows(range(4))
        tensor([[1., 0., 0., 0.],
                [0., 1., 0., 0.],
                [0., 0., 1., 0.],
                [0., 0., 0., 1.]])
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 4 or rows % 4:
        cure = "Each of the four points must come equally often."
        raise ArgumentError(explain("rows", expected="a positive multiple of 4", got=repr(rows), cure=cure))
    points, labels = torch.eye(4, dtype=torch.bool).repeat(rows // 4, 1), torch.arange(4).repeat(rows // 4)
    train, test = (Dataset(points, name="four-points", split=split, labels=labels) for split in ("train", "test"))
    return train, test
