"""The alarms of diagnose, inspect and Monitor have the error rates that their documentation states.

python benchmarks/calibrate_alarms.py record --data FOLDER     # about 90 minutes of one core; resumable
python benchmarks/calibrate_alarms.py analyse                  # rates, limits and figures from the table
"""

from __future__ import annotations

import argparse
from pathlib import Path

from alarms.recording import record

_RUNS = Path("runs/alarms")


def main() -> None:
    """Runs one of the two halves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="train and measure the networks")
    recording.add_argument("--runs", type=Path, default=_RUNS)
    recording.add_argument("--data", type=Path, help="folder with cifar-10-subset.tar.xz, mnist/ and austen/")
    recording.add_argument("--only", default="", help="part of the keys to record")
    args = parser.parse_args()
    record(args.runs, args.data, args.only)


if __name__ == "__main__":
    main()
