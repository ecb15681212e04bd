"""`alpha-panda sandbox`: the Kite sandbox alone, in the foreground: as `.env` says, or as flags say otherwise."""

from __future__ import annotations

import os

import typer

FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    @app.command(context_settings=FLAGS)
    def sandbox(context: typer.Context) -> None:
        """Run the Kite sandbox alone (its flags: alpha-panda sandbox --help); `make up` runs one by itself."""
        from sandbox.__main__ import run

        raise typer.Exit(run([*from_settings(context.args), *context.args]))


def from_settings(given: list[str]) -> list[str]:
    """Flags that make it the sandbox of this home, for whoever names neither a data folder nor a key; what is given goes before them.

    Raises:
        ConfigError: there is no `.env` to take them from.
    """
    if any(flag.split("=")[0] in {"--data-dir", "--api-key", "-h", "--help"} for flag in given):
        return []
    from core.config import load_settings

    settings = load_settings()
    os.environ["KITE_API_SECRET"] = settings.kite_api_secret.get_secret_value()  # never on a command line
    values = {
        "--host": settings.sandbox_host,
        "--port": settings.sandbox_port,
        "--data-dir": settings.var / "data" / "sandbox",
        "--seed": settings.sandbox_seed,
        "--api-key": settings.kite_api_key,
        "--user-id": settings.kite_user_id,
        "--redirect-url": f"http://127.0.0.1:{settings.kite_login_port}/",
    }
    return [f"{flag}={value}" for flag, value in values.items()] + ["--still"] * settings.sandbox_still
