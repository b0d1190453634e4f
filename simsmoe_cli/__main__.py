"""`python -m simsmoe_cli`, the `simsmoe` command where no script is installed (torchrun -m)."""

from __future__ import annotations

from simsmoe_cli.cli.main import main

if __name__ == "__main__":
    main()
