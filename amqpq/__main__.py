"""`python -m amqpq`, and the entry point of the installed `amqpq` command."""

from __future__ import annotations

from amqpq.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="amqpq")
