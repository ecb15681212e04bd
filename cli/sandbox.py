"""`alpha-panda sandbox`: the Kite sandbox alone, in the foreground, from flags. Everything else stays as it is."""

from __future__ import annotations

import typer

FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    @app.command(context_settings=FLAGS)
    def sandbox(context: typer.Context) -> None:
        """Run the Kite sandbox alone (its flags: alpha-panda sandbox --help); `make up` runs one by itself."""
        from sandbox.__main__ import run

        raise typer.Exit(run(context.args))
