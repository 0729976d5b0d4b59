"""``python -m famseg``, which torchrun uses."""

from famseg.cli import main

if __name__ == "__main__":
    main()
