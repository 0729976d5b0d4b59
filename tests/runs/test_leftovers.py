from __future__ import annotations

from pathlib import Path

from famseg.runs import remove_leftovers

PART = ".last.pt.0123456789abcdef.part"


def test_what_is_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run / "checkpoints", other):
        folder.mkdir(parents=True)
    for path in (run / PART, run / "checkpoints" / f"{PART}.png", other / PART):
        path.write_text("half")
    for path in (run / "notes.part", run / ".mine.part", run / "checkpoints" / "last.pt"):
        path.write_text("mine")
    (run / "link").symlink_to(other, target_is_directory=True)
    (run / ".config.yaml.0123456789abcdef.part").symlink_to(other / PART)
    remove_leftovers(run)
    assert sorted(path.name for path in run.rglob("*")) == sorted(
        ["checkpoints", "last.pt", "notes.part", ".mine.part", "link"]
    )
    assert (other / PART).read_text() == "half"  # behind a link
