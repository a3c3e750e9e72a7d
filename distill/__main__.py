"""``python -m distill``, and ``torchrun -m distill``, are the ``distill`` command."""

from distill.cli.main import main

if __name__ == "__main__":
    main()
