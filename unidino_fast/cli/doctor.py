"""The command that looks at the machine."""

from __future__ import annotations

import json

import typer

from unidino_fast.cli.app import Json, app
from unidino_fast.terminal import tell


@app.command()
def doctor(as_json: Json = False) -> None:
    """Try what this machine can do: packages, device, weights, engines (half a minute).

    Exit code 1 where runs would fail. To paste into a question: unidino-fast doctor --json
    """
    from unidino_fast.doctor import examine

    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            tell(finding.line())
    sound = all(finding.state != "fault" for finding in findings)
    if as_json:
        tell(json.dumps({"sound": sound, "findings": [one.to_dict() for one in findings]}))
    if not sound:
        raise typer.Exit(1)
