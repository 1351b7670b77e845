"""`python -m lema_local`: the `lema` command, as torchrun and `accelerate launch` start it."""

from lema_local.cli import main

if __name__ == "__main__":
    main()
