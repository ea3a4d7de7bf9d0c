"""`python -m jaxdiff` is the command `jaxdiff`."""

from jaxdiff.cli.main import main

if __name__ == "__main__":
    main()
