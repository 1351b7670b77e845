"""The quickstart's learning curve, as a page with its drawing in docs/.

    python benchmarks/quickstart_curve.py --runs runs --sizes 94,187,all --seeds 0,1

Runs the quickstart first where that has not been done; its own trainings serve as the largest set's with seed 0. The
page is written whatever it says. Beside the quickstart about 16 minutes on 2 cores (`--sizes 94,all`: about 10).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEMA = [sys.executable, "-c", "from lema_local.cli import main; main()"]


def main() -> None:
    """Run the quickstart and its curve, and copy page and drawing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--sizes", default="94,187,all")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    run = arguments.runs / "quickstart"
    subprocess.run([*LEMA, "quickstart", "--run", str(run)], check=True)
    command = ["curve", str(run), "--sizes", arguments.sizes, "--seeds", arguments.seeds]
    subprocess.run([*LEMA, *command], check=True)
    told = ["curve", "runs/quickstart", *command[2:]]
    page = (run / "curve" / "curve.md").read_text(encoding="utf-8")
    written = f"Written by `benchmarks/quickstart_curve.py` (`lema {' '.join(told)}`), as it came out.\n"
    title, _, rest = page.partition("\n")
    page = f"{title}\n\n{written}{rest}".replace("(curve.svg)", "(quickstart-curve.svg)")
    (arguments.out / "quickstart-curve.md").write_text(page, encoding="utf-8")
    shutil.copyfile(run / "curve" / "curve.svg", arguments.out / "quickstart-curve.svg")


if __name__ == "__main__":
    main()
