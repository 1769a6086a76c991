"""What all tests share. No test reaches the network, asks for a login, or needs a GPU unless it is marked so."""

from __future__ import annotations

import os

# Before any library reads them.
os.environ.update(
    WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MPLBACKEND="Agg"
)

import copy
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from locus.run.threads import IDLE
from tests.support.composing import compose_quickly
from tests.support.paths import REPO

compose_quickly()

# However busy the machine is: runs with other threads differ in the last bit.
os.environ.setdefault("OMP_NUM_THREADS", str(IDLE))


LONGEST = "tests/project/test_shipped_backbone.py"
"""Whole runs of a quarter of an hour: the process that takes them last works alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first; the order that is left is pytest's own."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root folder."""
    return REPO


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that leaves this machine fails the test: a download at run time would pass unseen otherwise."""
    connect = socket.socket.connect

    def local_connect(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise AssertionError(f"a test tried to reach {address}: tests use no network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_connect)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked gpu are skipped on a machine without one."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@lru_cache(maxsize=32)
def _composed(app: str, overrides: tuple[str, ...], conf: Path) -> DictConfig:
    """Several tests ask for the same composition of conf; none of them gets this one."""
    with initialize_config_dir(str(conf), version_base="1.3", job_name=app):
        return compose(app, list(overrides), return_hydra_config=True)


@pytest.fixture
def compose_app(tmp_path: Path) -> Iterator[Callable[..., DictConfig]]:
    """``compose_app(app, overrides, conf)``: the configuration that ``python -m locus.<app> <overrides>`` gets.

    Without the ``hydra`` node; ``${hydra:runtime.output_dir}`` is a temporary folder.
    """
    import locus.run.runtime  # noqa: F401  its resolvers are conf's

    outer = HydraConfig.instance().cfg

    def composed(app: str, overrides: Sequence[str] = (), conf: Path = REPO / "conf") -> DictConfig:
        make = _composed if conf == REPO / "conf" else _composed.__wrapped__  # a test's own files may change
        whole = make(app, tuple(overrides), conf)
        OmegaConf.set_readonly(whole.hydra, None)
        with open_dict(whole):
            whole.hydra.runtime.output_dir = str(tmp_path)
            whole.hydra.job.id, whole.hydra.job.num = "0", 0
        config = copy.deepcopy(whole)
        HydraConfig.instance().set_config(whole)
        with open_dict(config):
            del config["hydra"]
        return config

    yield composed
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = outer
