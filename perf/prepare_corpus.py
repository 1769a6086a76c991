"""Time and memory of ``locus.prepare`` on annotations of COCO train2014's size: 82,783 images, 604,907 boxes.

Writes a synthetic instances JSON (no pictures, so the pixel audits are off), prepares 99,500 + 500 examples in a
process of its own and prints JSON: seconds and peak resident memory of that whole process. Run from the repository:
``python -m perf.prepare_corpus``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGES, BOXES, CATEGORIES = 82_783, 604_907, 80
SIZES = np.array([(640, 480), (640, 427), (480, 640), (500, 375), (333, 500)])


def write_instances(path: Path, polygon_points: int, seed: int = 0) -> None:
    """COCO instances JSON of random boxes: log-normal areas, about half below 1 % of the image and a quarter of 1-5 %
    (as in COCO), 1 % crowd; each with one polygon, whose text makes most of the file and of the reader's memory."""
    rng = np.random.default_rng(seed)
    size = SIZES[rng.integers(len(SIZES), size=IMAGES)]
    row = rng.integers(IMAGES, size=BOXES)
    canvas = size[row].astype(float)
    area = np.minimum(np.exp(rng.normal(np.log(0.01), 1.9, size=BOXES)), 0.9) * canvas.prod(axis=1)
    width = np.minimum(np.sqrt(area * np.exp(rng.normal(0, 0.5, size=BOXES))), canvas[:, 0])
    sides = np.stack([width, np.minimum(area / width, canvas[:, 1])], axis=1)
    corner = rng.random((BOXES, 2)) * (canvas - sides)
    boxes = np.concatenate([corner, sides], axis=1).round(2).tolist()
    crowd, category = rng.random(BOXES) < 0.01, rng.integers(1, CATEGORIES + 1, size=BOXES)
    with path.open("w") as file:
        images = ({"id": i + 1, "file_name": f"{i + 1:012d}.jpg", "width": int(w), "height": int(h)}
                  for i, (w, h) in enumerate(size))  # fmt: skip
        file.write('{"images": [' + ", ".join(map(json.dumps, images)) + '], "categories": ')
        json.dump([{"id": i + 1, "name": f"category {i + 1}"} for i in range(CATEGORIES)], file)
        file.write(', "annotations": [')
        for index, box in enumerate(boxes):
            polygon = ", ".join(f"{index % 640 + point / 100:.2f}" for point in range(2 * polygon_points))
            file.write(
                f'{"," if index else ""}\n{{"id": {index + 1}, "image_id": {row[index] + 1}, "bbox": {box}, '
                f'"category_id": {category[index]}, "iscrowd": {int(crowd[index])}, '
                f'"area": {box[2] * box[3]:.2f}, "segmentation": [[{polygon}]]}}'
            )
        file.write("]}")


def measure(annotations: Path, crop: str, folder: Path) -> dict[str, object]:
    """Runs the command as a user would; its numbers."""
    command = [sys.executable, "-m", "locus.prepare", "data=coco", f"crop={crop}", f"data.annotations={annotations}",
               f"data.images={folder}", "audit.check_images=false", "audit.ambiguity_sample=0",
               f"hydra.run.dir={folder / crop}"]  # fmt: skip
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    record = json.loads((folder / crop / "corpus.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # KiB on Linux
    return {"crop": crop, "seconds": round(seconds, 1), "peak_gb": round(peak, 2), "bins": record["bins"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop", default="object", help="crop strategy, a name in conf/crop")
    parser.add_argument("--polygon-points", type=int, default=24, help="points of each segmentation polygon")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        annotations = Path(folder) / "instances.json"
        write_instances(annotations, options.polygon_points)
        size = annotations.stat().st_size / 1e6
        result = measure(annotations, options.crop, Path(folder))
    print(json.dumps({"images": IMAGES, "boxes": BOXES, "json_mb": round(size), **result}, indent=2))


if __name__ == "__main__":
    main()
