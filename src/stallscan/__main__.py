"""Run the command line with ``python -m stallscan``."""

from stallscan.cli.main import main

if __name__ == "__main__":
    main()
