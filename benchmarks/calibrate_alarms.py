"""The alarms of diagnose, inspect and Monitor have the error rates that their documentation states.

    python benchmarks/calibrate_alarms.py record --data FOLDER     # about an hour of one core; resumable
    python benchmarks/calibrate_alarms.py ahead --data FOLDER      # what becomes of streams that end well
    python benchmarks/calibrate_alarms.py table                    # what was recorded, into results/alarms
    python benchmarks/calibrate_alarms.py analyse                  # rates, limits and figures from the table

FOLDER holds cifar-10-subset.tar.xz, mnist/ and austen/. Networks that the table has are not recorded again.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from alarms import analysis, table
from alarms.ahead import open_streams, read_ahead, record_ahead, with_ahead
from alarms.recording import record

_MODULE = Path("src/isoplast/diagnostics/health/_limits.py")
_GUIDE = Path("docs/alarms.md")
_FIGURE = Path("docs/figures/alarms.svg")
_RUNS, _TABLE = Path("runs/alarms"), Path("results/alarms/networks.csv.gz")


def main() -> None:
    """Runs one of the four parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=_RUNS)
    parser.add_argument("--table", type=Path, default=_TABLE)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="train and measure the networks")
    recording.add_argument("--data", type=Path, required=True)
    recording.add_argument("--only", default="", help="part of the keys to record")
    further = commands.add_parser("ahead", help="train on the streams of the table that ended well")
    further.add_argument("--data", type=Path, required=True)
    commands.add_parser("table", help="put what was recorded into the table")
    analysing = commands.add_parser("analyse", help="rates, limits and figures")
    analysing.add_argument("--write", action="store_true", help="write limits, tables and the figure")
    args = parser.parse_args()
    old = table.load(args.table)
    if args.command == "record":
        record(args.runs, args.data, args.only, done={row["key"] for row in old})
    elif args.command == "ahead":
        known = {row["key"] for row in old if not math.isnan(row.get("ahead", math.nan))}
        record_ahead(args.runs, args.data, set(open_streams(old)) - known)
    elif args.command == "table":
        rows = with_ahead(table.merged(old, table.compact(args.runs)), read_ahead(args.runs))
        table.write(rows, args.table)
        print(f"{len({row['key'] for row in rows})} networks, {len(rows)} rows: {args.table}")
    else:
        print(analysis.summary(analysis.looks(old)))
        if args.write:
            analysis.write(old, _MODULE, args.table.with_name("rates.md"), _GUIDE, _FIGURE)


if __name__ == "__main__":
    main()
