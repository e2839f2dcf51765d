"""Checks a cluster, and prints the findings."""

from dataclasses import asdict

from vitascope.cluster.local import connect
from vitascope.config import Settings
from vitascope.doctor.checks import Finding, check
from vitascope.doctor.facts import gather
from vitascope.stages.registry import Summary
from vitascope.wording import count


def run(settings: Settings) -> Summary:
    """Examines the cluster for these settings, prints every finding and returns them.

    Nothing is left behind in the run's folder. `healthy`: nothing stands in the way.
    """
    connect(settings.cluster)
    findings = check(settings, gather(settings))
    for finding in findings:
        print(_line(finding), flush=True)
    problems = [finding for finding in findings if finding.level == "problem"]
    print(count(len(problems), "problem") if problems else "nothing stands in the way", flush=True)
    return {"healthy": not problems, "findings": [asdict(finding) for finding in findings]}


def _line(finding: Finding) -> str:
    text = f"{finding.level:>8}  {finding.what}: {finding.found}"
    return f"{text}\n{'':>10}{finding.todo}" if finding.todo else text
