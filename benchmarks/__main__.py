"""`make bench`: runs every benchmark and prints one table. ARGS="--json FILE --runs 5 --only writes"."""

import argparse
from pathlib import Path

from benchmarks import anchoring, dashboard, fanout, growth, nested, rls, writes
from benchmarks.machine import Row, show

ALL = {
    "dashboard": dashboard.rows,
    "nested": nested.rows,
    "writes": writes.rows,
    "fanout": fanout.rows,
    "rls": rls.rows,
    "anchoring": anchoring.rows,
    "growth": growth.rows,
}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--json", type=Path, help="also write the table here")
    parser.add_argument("--runs", type=int, default=5, help="runs of each figure; the median is told")
    parser.add_argument("--only", choices=sorted(ALL), action="append", help="only these")
    parser.add_argument("--large", action="store_true", help="let the ledger grow to a million events")
    asked = parser.parse_args()
    rows: list[Row] = []
    for name in asked.only or ALL:
        large = name == "growth" and asked.large
        rows += growth.grown_to(growth.LARGE) if large else ALL[name](asked.runs)
    show(rows, asked.json)


if __name__ == "__main__":
    main()
