"""A manifest of a billion rows: 20,000 parts, made up."""

from dataclasses import replace

from helpers.outputs import make_manifest
from helpers.parts import output_of

from steps.common.embeddings import verify
from steps.common.embeddings.manifest import read_copy, write_manifest
from steps.common.embeddings.parts import Part, part_stem

PARTS, ROWS = 20_000, 50_000


def test_a_manifest_of_twenty_thousand_parts_is_written_read_and_checked_in_seconds(tmp_path):
    output = output_of(tmp_path / "out")
    parts = [make_part(number) for number in range(PARTS)]
    text = write_manifest(output, make_manifest(parts))
    assert len(text) < 20e6
    manifest = verify.read_manifest(output)
    assert manifest.parts == parts and manifest.keeps_digest() and read_copy(output) == manifest
    assert verify._check_order(manifest) == verify._check_totals(manifest) == []
    assert manifest.rows == 10**9
    # One of them begins a row too late: it is found.
    parts[777] = replace(parts[777], first_row=parts[777].first_row + 1)
    assert "part-00777" in verify._check_order(replace(manifest, parts=parts))[0]


def make_part(number: int) -> Part:
    first = number * ROWS
    place = f"s3://bucket/texts/file-{number // 20:05d}.parquet"
    return Part(
        name=f"{part_stem(number, PARTS)}.parquet",
        first_row=first,
        rows=ROWS,
        written_rows=ROWS,
        bytes=77_000_000 + number,
        sha256=f"{number:064x}",
        source={
            "first": {"file": place, "row": first % 10**6},
            "last": {"file": place, "row": first % 10**6 + ROWS - 1},
        },
        counts=dict.fromkeys(verify.TOTALS, 0),
    )
