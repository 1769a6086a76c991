"""Copies small sample files of every benchmark that is read from files, to try them all. Entry point.

    python -m locus.samples outputs/samples
    python -m locus.evaluate -m 'benchmark=glob(*)' benchmarks=outputs/samples benchmark.rows=null

Each benchmark gets a folder there, named after its file in conf/benchmark. A folder that already holds other files is
refused, so that a real benchmark is never overwritten.
"""

from __future__ import annotations

import filecmp
import shutil
import sys
from pathlib import Path

from locus.errors import LocusError

SAMPLES = Path(__file__).parent / "assets" / "samples"


def copy_samples(folder: Path) -> list[str]:
    """Copies the samples and returns the benchmarks' names; raises LocusError for a folder that holds anything else."""
    try:
        for file in filter(Path.is_file, folder.rglob("*")):
            name = file.relative_to(folder)
            if not (SAMPLES / name).is_file() or not filecmp.cmp(file, SAMPLES / name, shallow=False):
                raise LocusError(f"{folder} holds {name}, which is not one of the samples: give a new folder")
        shutil.copytree(SAMPLES, folder, dirs_exist_ok=True)
    except OSError as error:
        raise LocusError(f"{folder}: cannot be written ({error}): give another folder") from error
    return sorted(path.name for path in SAMPLES.iterdir())


def main() -> None:
    """The command."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__.strip())
        return
    try:
        if len(sys.argv) != 2:
            raise LocusError("give one folder: python -m locus.samples FOLDER")
        names = copy_samples(Path(sys.argv[1]))
    except LocusError as error:
        print(f"locus: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{sys.argv[1]}: samples of {len(names)} benchmarks: {', '.join(names)}")


if __name__ == "__main__":
    main()
