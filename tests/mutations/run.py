"""Measures what the tests notice: puts one fault after another into a copy of the code, and runs its room's tests.

    python tests/mutations/run.py --json=/tmp/mutations.json              # all; the same command goes on after a stop
    python tests/mutations/run.py --room=losses --skip-clean              # one room, trusting that its tests pass
    python tests/mutations/run.py --only data-flip-boxes ops-filter-centre
    python tests/mutations/run.py --tree=OLD --json=old.json                # another checkout, with its own tests
    python tests/mutations/run.py --json=new.json --against=old.json        # and what these tests miss of those
    python tests/mutations/run.py --list                                    # fails where one does not apply any more

A fault is "caught" by the first test that fails, "timeout" where one test hangs (which counts as caught), "survived"
where all tests of its room pass, then also those marked `heavy`, and "capped" where they passed for as long as they
were given. "does not apply" means that the code has changed: give the mutation in `rooms/` another pair of texts.
"broken" means that pytest did not run.
A line is printed for each mutation as it goes, a table by room at the end.
"""

import argparse
import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mutation import ROOMS, Mutation
from mutation_plugin import CACHE, FIRST, STATUS
from mutations import MUTATIONS

HERE = Path(__file__).resolve().parent
# Loaded once, before the processes of the tests are forked.
LOADED = (
    "jax.numpy jax.experimental.pallas.triton flax.linen optax orbax.checkpoint tensorflow_datasets grain clu.metrics "
    "ml_collections.config_flags dm_pix cv2 PIL.Image chex hypothesis pytest tqdm.auto"
)
HANGS = 150  # seconds in one test from which a run that is out of time is called hanging
CAUGHT = ("caught", "timeout")
STATES = ("caught", "timeout", "survived", "capped", "does not apply", "broken")


def main() -> int:
    args = _arguments()
    os.environ["JAX_PLATFORMS"] = "cpu"  # jax reads it when it is imported
    multiprocessing.set_forkserver_preload(LOADED.split())
    chosen = [m for m in MUTATIONS if (not args.only or m.id in args.only) and args.room in ("", m.room)]
    if args.list:
        apply = [m.apply(args.tree) is not None for m in chosen]
        for mutation, applies in zip(chosen, apply, strict=True):
            print(f"{mutation.id:32} {'' if applies else '(does not apply) '}{mutation.what}")
        return 0 if all(apply) else 1
    found = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    with tempfile.TemporaryDirectory(prefix="mutations_") as scratch:
        cache = args.cache or Path(scratch, "cache")
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(args.jobs):
            copies.put(_copy(args.tree, Path(scratch, f"tree_{number}")))
        if not args.skip_clean and not _clean(chosen, copies, cache):
            return 1
        known = {id for id, result in found.items() if result["state"] != args.again}
        _run_all([m for m in _in_turns(chosen) if m.id not in known], copies, cache, found, args)
    _print_table([m for m in chosen if m.id in found], found)
    if args.against:
        others = json.loads(args.against.read_text())
        lost = [m.id for m in chosen if _is_caught(others, m.id) and not _is_caught(found, m.id)]
        print(f"caught by {args.against} and not here: {', '.join(lost) or 'none'}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="ID")
    parser.add_argument("--room", default="", choices=("", *ROOMS))
    parser.add_argument("--jobs", default=1, type=int, help="mutations at once, each in a copy of its own")
    parser.add_argument("--json", type=Path, help="results, from which the same command goes on")
    parser.add_argument("--tree", type=Path, default=HERE.parents[1], help="the checkout to mutate; its files stay")
    parser.add_argument("--against", type=Path, help="results of other tests, to tell what these miss of them")
    parser.add_argument("--again", default="", help="a state, such as capped: run those once more")
    parser.add_argument("--cap", default=240.0, type=float, help="seconds for each mutation")
    parser.add_argument("--cache", type=Path, help="folder of compiled programs to keep over calls")
    parser.add_argument("--skip-clean", action="store_true", help="do not check first that the tests pass unmutated")
    parser.add_argument("--list", action="store_true", help="print the mutations and whether they apply")
    args = parser.parse_args()
    if unknown := set(args.only) - {m.id for m in MUTATIONS}:
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; --list names them")
    args.tree = args.tree.resolve()
    return args


def _copy(tree: Path, to: Path) -> Path:
    """The tracked files of a checkout, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=tree, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (tree / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, to / name)
    return to


def _clean(chosen: Sequence[Mutation], copies: queue.Queue[Path], cache: Path) -> bool:
    """Whether the tests that are about to judge pass without any fault."""
    tree = copies.get()
    good = True
    for paths in sorted({m.test_paths for m in chosen}):
        state, test, seconds = _judge(tree, paths, (), cache, 3600)
        print(f"unmutated {' '.join(paths)}: {state} {test} ({seconds:.0f} s)", flush=True)
        good &= state == "survived"
    copies.put(tree)
    return good


def _in_turns(chosen: Sequence[Mutation]) -> list[Mutation]:
    """One of each room after the other, so that a run that is stopped early says something of each."""
    place = Counter[str]()
    ranked = []
    for mutation in chosen:
        ranked.append((place[mutation.room], mutation))
        place[mutation.room] += 1
    return [mutation for _, mutation in sorted(ranked, key=lambda pair: pair[0])]


def _run_all(
    chosen: Sequence[Mutation], copies: queue.Queue[Path], cache: Path, found: dict, args: argparse.Namespace
) -> None:
    start, lock = time.time(), threading.Lock()
    done = 0

    def one(mutation: Mutation) -> None:
        nonlocal done
        tree = copies.get()
        state, test, seconds = _mutate(mutation, tree, cache, args.cap)
        copies.put(tree)
        with lock:
            done += 1
            found[mutation.id] = {"state": state, "test": test, "seconds": round(seconds, 1)}
            if args.json:
                args.json.write_text(json.dumps(found, indent=1))
            left = (time.time() - start) / done * (len(chosen) - done) / 60
            print(
                f"[{done}/{len(chosen)}, {left:.0f} min left] {mutation.id}: {state} {test} ({seconds:.0f} s)",
                flush=True,
            )

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for future in [pool.submit(one, mutation) for mutation in chosen]:
            future.result()


def _mutate(mutation: Mutation, tree: Path, cache: Path, cap: float) -> tuple[str, str, float]:
    applied = mutation.apply(tree)
    if applied is None:
        return "does not apply", "", 0.0
    path, text, faulty = applied
    try:
        _write(path, faulty)
        state, test, seconds = _judge(tree, mutation.test_paths, mutation.first, cache, cap)
        if state == "survived":
            state, test, more = _judge(tree, mutation.test_paths, mutation.first, cache, cap, "-m", "heavy")
            seconds += more
        return state, test, seconds
    finally:
        _write(path, text)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    # Python tells a changed source by size and seconds, which two quick edits may share.
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def _judge(
    tree: Path, paths: Sequence[str], first: Sequence[str], cache: Path, cap: float, *markers: str
) -> tuple[str, str, float]:
    """Runs tests in `tree` -> (state, the first test that failed, seconds)."""
    status = tree.parent / f"{tree.name}_status"
    log = tree.parent / f"{tree.name}_log"
    environment = os.environ | {
        "PYTHONPATH": f"{tree}{os.pathsep}{HERE}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        CACHE: str(cache),
        FIRST: "\n".join(first),
        STATUS: str(status),
    }
    status.unlink(missing_ok=True)
    there = [path for path in paths if (tree / path).exists()]
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "mutation_plugin", "--tb=no", *markers]
    start = time.time()
    arguments = [*options, f"--basetemp={tree}_tmp", *there]
    process = multiprocessing.get_context("forkserver").Process(
        target=_pytest, args=(tree, environment, log, arguments)
    )
    process.start()
    try:
        process.join(cap)
        if process.exitcode is None:
            since, test = status.read_text().split(" ", 1) if status.exists() else (str(start), "collection")
            hangs = time.time() - float(since) > HANGS
            return ("timeout" if hangs else "capped"), test, time.time() - start
    finally:
        process.kill()
        with contextlib.suppress(ProcessLookupError):  # it leads a group: what the tests started ends with it
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    code = process.exitcode
    seconds = time.time() - start
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", log.read_text(), re.MULTILINE)
    if code in (0, 5):  # all passed, or there was none
        return "survived", "", seconds
    if failed and code in (1, 2):
        return "caught", failed[1], seconds
    return "broken", f"pytest ended with {code}: {log.read_text()[-300:]}", seconds


def _pytest(tree: Path, environment: dict[str, str], log: Path, arguments: list[str]) -> None:
    """`python -m pytest` in a fresh process, which has loaded what no mutation changes."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    os.environ.update(environment)
    sys.path[:0] = [str(tree), str(HERE)]
    import pytest

    code = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(int(code))


def _is_caught(found: dict, id: str) -> bool:
    return id in found and found[id]["state"] in CAUGHT


def _print_table(chosen: Sequence[Mutation], found: dict) -> None:
    states = {m.id: found[m.id]["state"] for m in chosen}
    print("\n" + f"{'room':10}" + "".join(f"{state:>15}" for state in STATES) + f"{'minutes':>10}")
    for room in (*ROOMS, "all"):
        members = [m for m in chosen if room in (m.room, "all")]
        counts = Counter(states[m.id] for m in members)
        minutes = sum(found[m.id]["seconds"] for m in members) / 60
        print(f"{room:10}" + "".join(f"{counts[state]:15}" for state in STATES) + f"{minutes:10.1f}")
    missed = [m for m in chosen if not _is_caught(found, m.id)]
    print("\nnot caught:" + "".join(f"\n  {m.id} ({states[m.id]}): {m.what} {found[m.id]['test']}" for m in missed))


if __name__ == "__main__":
    sys.exit(main())
