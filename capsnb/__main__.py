"""`python -m capsnb`."""

from capsnb.cli import main

if __name__ == "__main__":  # the processes of `reproduce --workers` import this file as well
    main()
