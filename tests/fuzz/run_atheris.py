"""Fuzz the targets with atheris, guided by the coverage of the readers.

Run as ``python tests/fuzz/run_atheris.py SECONDS [TARGET ...]``; ``make fuzz`` does. The first byte
of an input chooses its target, so that all share one process. An input that ends the process (a
crash, 20 seconds for one input, 4 GiB) is written to the working folder as ``crash-...`` or
similar.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# Instrumenting whole packages would take longer than fuzzing them.
_WATCHED = [
    *("famseg", "yaml", "nibabel.nifti1", "pydicom.filereader", "pydicom.dataelem"),
    *("trimesh.exchange.stl", "trimesh.exchange.ply", "plistlib", "tarfile", "zipfile"),
]
_LIMITS = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=65536", "-print_final_stats=1")


def main() -> None:
    """Fuzz for the number of seconds on the command line; does not return."""
    import atheris

    with atheris.instrument_imports(include=_WATCHED):
        from targets import TARGETS, check
    from seeds import seeds

    seconds, *names = sys.argv[1:]
    names = names or list(TARGETS)
    found: set[str] = set()

    def given(content: bytes) -> None:
        name = names[content[0] % len(names)] if content else names[0]
        try:
            check(name, content[1:])
        except Exception:
            text = traceback.format_exc()
            where = text.splitlines()[-1]
            if where not in found:
                found.add(where)
                print(f"finding {len(found)}, {name}, {content[1:]!r}\n{text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="famseg-fuzz-") as corpus:
        for place, name in enumerate(names):
            for number, content in enumerate(seeds(name)):
                Path(corpus, f"{name}-{number}").write_bytes(bytes([place]) + content)
        atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", *_LIMITS, corpus], given)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
