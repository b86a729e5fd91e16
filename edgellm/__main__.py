"""`python -m edgellm`: the command line without its script."""

from edgellm.cli import main

if __name__ == "__main__":
    main()
