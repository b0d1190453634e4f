"""`python -m simsmoe_cli`: the same as the command `simsmoe`, also for `torchrun -m`."""

from simsmoe_cli.cli.entry import main

if __name__ == "__main__":
    main()
