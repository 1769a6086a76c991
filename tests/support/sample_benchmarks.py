"""A small file of every benchmark that is read from files, in one of its true forms: what `locus.samples` ships.

After a change here: python -m tests.support.sample_benchmarks locus/assets/samples
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.benchmark_files import write_parquet, write_tsv
from tests.support.benchmark_files_choice import (
    ai2d_rows,
    hr_rows,
    mmstar_rows,
    write_cv,
    write_mme,
    write_realworldqa,
    write_vstar,
)
from tests.support.benchmark_files_other import (
    ASKED,
    hallusion_rows,
    jxu124,
    mathverse_rows,
    mathvision_rows,
    ocrbench_rows,
    refer,
    vlmevalkit,
    wemath_rows,
    write_babyvision,
    write_logicvista,
    write_pope,
)
from tests.support.benchmark_files_seeing import (
    mmbench_rows,
    treebench_rows,
    write_blink,
    write_mmvp,
    write_seed_bench,
    write_vsr,
    zoombench_rows,
)


def write_samples(folder: Path) -> None:
    """A folder for each benchmark, named after its file in conf/benchmark; what lies there is written over."""

    def of(name: str) -> Path:
        (folder / name).mkdir(parents=True, exist_ok=True)
        return folder / name

    write_parquet(of("ai2d") / "test-00000-of-00001.parquet", ai2d_rows())
    write_babyvision(of("babyvision"))
    write_blink(of("blink"))
    write_cv(of("cv_bench"))
    write_tsv(of("hallusionbench") / "HallusionBench.tsv", hallusion_rows())
    write_parquet(of("hr_bench_4k") / "hr_bench_4k.parquet", hr_rows())
    write_tsv(of("hr_bench_8k") / "hr_bench_8k.tsv", hr_rows())
    write_logicvista(of("logicvista"))
    write_parquet(of("mathverse") / "testmini.parquet", mathverse_rows()[:8])
    write_tsv(of("mathvision") / "MathVision.tsv", mathvision_rows())
    write_mme(of("mme_realworld"), "parquet", (3, 4))
    write_mme(of("mme_realworld_lite"), "json", (3, 4))
    write_tsv(of("mmbench") / "MMBench_DEV_EN.tsv", mmbench_rows())
    write_parquet(of("mmstar") / "mmstar.parquet", mmstar_rows())
    write_mmvp(of("mmvp"))
    write_tsv(of("ocrbench") / "OCRBench.tsv", ocrbench_rows())
    write_pope(of("pope"))
    write_realworldqa(of("realworldqa"))
    refer(of("refcoco"), ("val", "testA", "testB"))
    vlmevalkit(of("refcoco_plus") / "RefCOCO.tsv", ASKED | {"RefCOCO+ val": "a cat", "RefCOCO+ test-B": "the cat"})
    jxu124(of("refcocog"))
    write_seed_bench(of("seed_bench"))
    write_tsv(of("treebench") / "TreeBench.tsv", treebench_rows())
    write_vsr(of("vsr"))
    write_vstar(of("vstar"))
    write_parquet(of("wemath") / "testmini.parquet", wemath_rows()[-7:])
    write_parquet(of("zoombench") / "test.parquet", zoombench_rows())


if __name__ == "__main__":
    write_samples(Path(sys.argv[1]))
