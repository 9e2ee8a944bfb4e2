"""``python -m lowerbound``."""

from lowerbound.cli import main

if __name__ == "__main__":
    main()
