from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no ISOPLAST_DATA."""
    folder = tmp_path / "cache"
    monkeypatch.delenv("ISOPLAST_DATA", raising=False)
    monkeypatch.setenv("ISOPLAST_CACHE", str(folder))
    return folder
