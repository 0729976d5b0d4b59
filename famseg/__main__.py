"""``python -m famseg``, as torchrun starts it."""

from famseg.cli import main

if __name__ == "__main__":
    main()
