"""`python -m unidino_fast` is `unidino-fast`."""

from unidino_fast.cli import main

if __name__ == "__main__":
    main()
