"""Stands in for the process that compiles: it aborts in the first stage that it is given, as XLA's compilers do."""

import json
import os
import sys


def main() -> None:
    job = json.loads(sys.stdin.readline())
    left = [name for name in ("first", "second") if name not in job["skip"]]
    if left == ["second"]:
        print("a line of a library")
        print(json.dumps({"event": "start", "stage": "second"}))
        print(json.dumps({"event": "done", "stage": "second", "seconds": 1.0}), flush=True)
        return
    print(json.dumps({"event": "start", "stage": "first"}), flush=True)
    print(
        "F1129 converter.cc:1] Check failed: x\n*** Check failure stack trace: ***\n    @ f()",
        file=sys.stderr,
        flush=True,
    )
    os.abort()


if __name__ == "__main__":
    main()
