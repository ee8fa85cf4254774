"""What ``python -m stallscan`` runs: the command line."""

from stallscan.cli.main import main

if __name__ == "__main__":
    main()
