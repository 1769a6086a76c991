"""How far apart fingerprints of one picture stored anew lie, and those of different pictures.

The leak check of ``locus.prepare`` (`locus.images.fingerprints`) takes its distance from these. Prints the largest
distance by way of storing, the smallest of all pairs of different pictures, and seconds. Run from the repository on a
folder of photographs, no two of which are alike: ``python -m perf.fingerprints train2017``.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from locus.images.fingerprints import BITS, fingerprint, nearest
from locus.images.sources import FolderSource


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The picture as a JPEG file has it."""
    image.save(file := io.BytesIO(), "JPEG", quality=quality)
    return Image.open(file)


def smaller(image: Image.Image, parts: int) -> Image.Image:
    """The picture at one of so many parts of its sides."""
    return image.resize((image.width // parts, image.height // parts), Image.Resampling.BILINEAR)


WAYS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 60": lambda image: jpeg(image, 60),
    "half its size": lambda image: smaller(image, 2),
    "half its size, JPEG of quality 60": lambda image: jpeg(smaller(image, 2), 60),
    "a third of its size, JPEG of quality 30": lambda image: jpeg(smaller(image, 3), 30),
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=500, help="pictures")
    parser.add_argument(
        "--against", type=int, default=20_000, help="random fingerprints that are compared, for the time"
    )
    arguments = parser.parse_args()
    source = FolderSource(str(arguments.folder))
    paths = source.table().path[: arguments.most]
    began = time.perf_counter()
    prints = np.stack([source.fingerprint(path) for path in paths])
    print(f"{len(paths)} pictures, {1000 * (time.perf_counter() - began) / len(paths):.1f} ms each")
    for way, store in WAYS.items():
        again = np.stack([fingerprint(store(source.open(path))) for path in paths])
        differ = np.bitwise_count(again ^ prints).sum(axis=1)
        print(f"{way}: at most {differ.max()} of {BITS} bits differ, {differ.mean():.1f} on average")
    apart = np.concatenate([np.bitwise_count(prints[:at] ^ prints[at]).sum(axis=1) for at in range(1, len(prints))])
    print(f"{len(apart)} pairs of different pictures: at least {apart.min()}, {apart.mean():.1f} +- {apart.std():.1f}")
    random = np.random.default_rng(0).integers(0, 2**63, (arguments.against, prints.shape[1]), dtype=np.uint64)
    began = time.perf_counter()
    nearest(random, random)
    print(f"{arguments.against} against {arguments.against}: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
