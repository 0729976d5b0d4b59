"""Print the ten largest packages of the environment and their megabytes; run in the image."""

from importlib.metadata import Distribution, distributions
from pathlib import Path


def size(distribution: Distribution) -> int:
    """Return the bytes of a package's files that are there, compiled ones included."""
    paths = {Path(str(distribution.locate_file(file))) for file in distribution.files or ()}
    return sum(path.stat().st_size for path in paths if path.is_file())


sizes = sorted(((size(found), found.name) for found in distributions()), reverse=True)
for number, name in sizes[:10]:
    print(f"{number / 1e6:8.0f}  {name}")
print(f"{sum(number for number, _ in sizes) / 1e6:8.0f}  all {len(sizes)} packages")
