"""The project's tasks: `nox -l` lists them, `nox -s NAME` runs one in the environment of nox."""

import sys
from pathlib import Path
from typing import Any

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]
BIN = Path(sys.executable).parent


def run(session: nox.Session, tool: str, *arguments: str, **options: Any) -> None:
    """Run a tool of this environment."""
    session.run(str(BIN / tool), *arguments, external=True, **options)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, and the floors of docs/architecture.md."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")
    run(session, "lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    run(session, "mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, or those named after `--`."""
    run(session, "pytest", "-q", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """All tests, with the branches they take in this process and in those they start."""
    run(session, "coverage", "erase")
    run(session, "coverage", "run", "-m", "pytest", "-q", *session.posargs)
    run(session, "coverage", "combine", "-q")
    run(session, "coverage", "report")


@nox.session
def failed(session: nox.Session) -> None:
    """The tests that failed last, once more and without coverage, which slows processes down."""
    run(session, "pytest", "-q", "--last-failed", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """Tests on the lowest versions that pyproject.toml allows, in `.venv-lowest`; needs uv."""
    python = ".venv-lowest/bin/python"
    session.run("uv", "venv", "-q", "--clear", "-p", sys.executable, ".venv-lowest", external=True)
    pip = ("uv", "pip", "install", "-q", "-p", python)
    # The SDK pins the API: it is asked for with it.
    own = ("-e", ".[cache,cli,otel,parquet,redis]", "opentelemetry-sdk>=1.30")
    session.run(*pip, "--resolution=lowest-direct", *own, external=True)
    session.run(*pip, "--group", "test", external=True)  # newest, but nothing installed is raised
    paths = session.posargs or [str(path) for path in sorted(Path("tests").glob("test_*.py"))]
    session.run(python, "-m", "pytest", "-q", *paths, external=True)


@nox.session
def image(session: nox.Session) -> None:
    """The container of examples/Dockerfile, built and run; needs podman, runc and debootstrap."""
    skipped = 5  # pytest's status where it ran nothing
    run(session, "pytest", "-q", "-n0", "tests/integrations/image.py", success_codes=[0, skipped])


@nox.session
def nightly(session: nox.Session) -> None:
    """Every property with 5,000 random examples; small worlds and lost power in full."""
    profile = "--hypothesis-profile=nightly"
    run(session, "pytest", "-q", "-m", "hypothesis or nightly", profile, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documents as a site, in `site/`."""
    run(session, "sphinx-build", "-qW", "docs", "site")
