"""Every shipped configuration is valid, says how to run it and survives a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest

from famseg.config import find_config, load, read, to_yaml
from famseg.config._files import shipped_folder

FILES = sorted(str(path.relative_to(shipped_folder())) for path in shipped_folder().rglob("*.yaml"))


def test_there_are_some():
    assert {"skull.yaml", "skull_paper.yaml", "skull_folder.yaml"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_configuration(folder, name):
    path = find_config(name)
    assert path == shipped_folder() / name
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# famseg train --config {name}")
    pipeline, config = load(name)
    Path("resolved.yaml").write_text(to_yaml(config))
    assert read("resolved.yaml").validate(pipeline.Config) == config
