"""Parameters in shards on four devices: XLA moves what it must, the weights are those of one device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optax", reason="the extra 'jax' is not installed")


@pytest.mark.slow
def test_sharded_parameters_move_as_whole_ones_do_and_stay_sharded() -> None:
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    script = Path(__file__).with_name("sharded_parameters.py")
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
