#!/usr/bin/env python3
"""Runs commands that nobody has read yet, each in a sandbox, through `dune run --json`.

    examples/tool_runner.py [--policy NAME|FILE] [--timeout SECONDS] < requests

Each line of the input is a request: {"command": ["busybox", "sha256sum"], "input": "text"}. For each, one line of JSON
comes out: how it ended, its output, and what it was not allowed. It needs Python's standard library and `dune` in PATH.

As a module: `run(["busybox", "true"])` gives a `Result`.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys

SCHEMA = "dune-run/"
VERSION = 1


class SandboxError(Exception):
    """There is no report, or one that this program does not understand."""


@dataclasses.dataclass
class Result:
    """How a command ended: `kind` is exited, signaled, denied, limit, not_started or timeout."""

    kind: str
    status: int | None
    signal: int | None
    output: str
    errors: str
    denials: list
    not_enforced: list
    why: str | None


def understand(text):
    """The report in a string. Fields that are new are no reason to refuse it; another version is."""
    try:
        report = json.loads(text)
        schema = report["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise SandboxError(f"dune run has written no report: {error}") from error
    if not schema.startswith(SCHEMA) or schema[len(SCHEMA):] != str(VERSION):
        raise SandboxError(f"the report has the schema {schema}, and {SCHEMA}{VERSION} is understood")
    return report


def result_of(report, output, errors):
    """What of a report matters to the one who asked."""
    outcome = report["outcome"]
    why = None
    if outcome["not_started"]:
        why = outcome["not_started"]["why"]
    elif outcome["kind"] == "denied":
        why = outcome["denied_call"]["why"]
    elif outcome["kind"] == "limit":
        why = f"the limit {outcome['limit']} is reached"
    return Result(
        kind=outcome["kind"],
        status=outcome["status"],
        signal=outcome["signal"],
        output=output,
        errors=errors,
        denials=[f"{denial['call']}: {denial['why']} ({denial['count']} times)" for denial in report["denials"]],
        not_enforced=[wall["by"] for wall in report["walls"] if not wall["enforced"]],
        why=why,
    )


def run(command, policy="compute", text="", timeout=60):
    """Runs a command to its end, or until so many seconds have passed."""
    reader, writer = os.pipe()
    try:
        child = subprocess.Popen(
            ["dune", "run", "--policy", policy, "--json", str(writer), "--", *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[writer],
            text=True, errors="replace",
        )
    finally:
        os.close(writer)
    with os.fdopen(reader) as pipe:
        try:
            # A report is written at the end, and may be longer than a pipe holds: it is read below, while the child still runs.
            output, errors, report = communicate(child, pipe, text, timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            output, errors = child.communicate()
            return Result("timeout", None, None, output, errors, [], [], f"it took more than {timeout} seconds")
    if not report:
        raise SandboxError(errors.strip() or f"dune run ended with {child.returncode}, without a report")
    return result_of(understand(report), output, errors)


def communicate(child, pipe, text, timeout):
    """Feeds the child and reads all that it says, with the report."""
    import threading

    report = []
    reading = threading.Thread(target=lambda: report.append(pipe.read()))
    reading.start()
    output, errors = child.communicate(text, timeout)
    reading.join()
    return output, errors, report[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="compute")
    parser.add_argument("--timeout", type=float, default=60)
    options = parser.parse_args()
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            answer = dataclasses.asdict(
                run(request["command"], options.policy, request.get("input", ""), options.timeout)
            )
        except (ValueError, KeyError, TypeError, SandboxError, OSError) as error:
            answer = {"kind": "error", "why": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
