"""Files damaged at random: read with a count that agrees with itself, or refused in one line; nothing else.

MALFORMED_INPUTS=60000 looks at more of them, and finds some in ORC that end the process inside its C++ library.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.project import PROJECT

SCRIPT = PROJECT / "tests" / "helpers" / "malformed.py"
# 1,000 of CSV, JSON Lines and Parquet, and as many of Arrow and ORC.
INPUTS = int(os.environ.get("MALFORMED_INPUTS", "2000"))
# Seconds for one, on a machine that is busy.
PATIENCE = 30


def examine(first: int, last: int, folder: Path) -> dict[int, str]:
    """What is found of each, in a process of their own; a new one where one dies or hangs."""
    found: dict[int, str] = {}
    while first < last:
        with (folder / "found").open("w+") as out, (folder / "errors").open("w+") as errors:
            child = subprocess.Popen([sys.executable, SCRIPT, str(first), str(last), folder], stdout=out, stderr=errors)
            said, code = 0, None
            while code is None:
                try:
                    code = child.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    before, said = said, (folder / "found").stat().st_size
                    if said == before:
                        child.kill()
                        code = child.wait()
            records = [json.loads(line) for line in (folder / "found").read_text().splitlines()]
            found |= {record["end"]: record["found"] for record in records if "end" in record}
            # The first of which nothing was found: there is none, or the process ended in it.
            first = first + len(records) // 2
            if first < last:
                found[first] = f"the process ended with {code}: {(folder / 'errors').read_text()[-2000:]}"
                first += 1
    return found


@pytest.mark.slow
def test_malformed_files_are_read_with_the_right_count_or_refused_in_one_line(tmp_path):
    found = examine(0, INPUTS, tmp_path)
    assert len(found) == INPUTS
    assert {number: what for number, what in found.items() if what not in ("rows", "refused")} == {}
    # Damage that is never noticed, or always, would say nothing of the reading.
    for format in range(6):
        of_format = [what for number, what in found.items() if number % 6 == format]
        assert {"rows", "refused"} <= set(of_format)


def test_a_process_that_dies_is_noticed_and_the_rest_is_examined(tmp_path, monkeypatch):
    script = tmp_path / "malformed.py"
    script.write_text(
        "import json, os, sys\n"
        "for n in range(int(sys.argv[1]), int(sys.argv[2])):\n"
        "    print(json.dumps({'begin': n}), flush=True)\n"
        "    if n == 3: os.abort()\n"
        "    print(json.dumps({'end': n, 'found': 'rows'}), flush=True)\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "SCRIPT", script)
    found = examine(0, 6, tmp_path)
    assert found.pop(3).startswith("the process ended with -6")
    assert found == {n: "rows" for n in (0, 1, 2, 4, 5)}


def test_damaged_statistics_of_a_parquet_column_end_no_process(tmp_path):
    assert examine(38888, 38889, tmp_path) == {38888: "refused"}
