"""`python -m simsmoe_cli`, the `simsmoe` command where no script is installed (torchrun -m)."""

from simsmoe_cli.cli.entry import main

if __name__ == "__main__":
    main()
