"""The simulation of leases runs, and shows no excess."""

import subprocess
import sys

from gateway import ROOT


def test_no_replicas_grant_more_than_one_process_would():
    command = [sys.executable, str(ROOT / "bench" / "leases.py"), "--replicas", "3", "--limits", "600,6000", "--seconds", "9"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in run.stdout.splitlines() if line.startswith("| 3 ")]
    assert len(rows) == 4 * 2 * 3, run.stdout  # loads, limits, and how much is offered
    assert {row[4] for row in rows} == {"0.00"}, run.stdout
    assert all(float(row[5]) >= 0.9 for row in rows), run.stdout
