"""What people decide is on disk when the page says so, whoever else writes to the file."""

import multiprocessing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sphere_ray.audit.journal import Journal
from sphere_ray.errors import ConfigError, RunDirectoryError
from sphere_ray.reward.judgements import AuditLine, Judged


def line(number: int, decision: Any = "accept", who: str = "ann") -> AuditLine:
    return AuditLine(
        when=datetime.now(UTC),
        who=who,
        iteration=0,
        problem_id="p",
        pair_id=f"pair-{number}",
        stage="self_generation",
        decision=decision,
        comment=f"number {number}\u2028 and \N{SNOWMAN}",
        sides=(Judged(chain_id="a", text_id="1"), Judged(chain_id="b", text_id="2")),
    )


def write_many(path: str, who: str, count: int) -> None:
    journal = Journal(path)
    for number in range(count):
        journal.append(line(number, who=who))


def test_writers_of_several_processes_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "audit.jsonl")
    people, count = ["ann", "bob", "cy"], 40
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write_many, args=(path, who, count)) for who in people]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = Journal(path).lines
    for who in people:
        own = [each.pair_id for each in found if each.who == who]
        assert own == [f"pair-{number}" for number in range(count)]
    assert len(found) == len(people) * count


def test_a_journal_sees_what_another_one_wrote(tmp_path: Path) -> None:
    one, other = (Journal(str(tmp_path / "audit.jsonl")) for _ in range(2))
    one.append(line(1))
    other.refresh()
    assert [each.pair_id for each in other.lines] == ["pair-1"]
    assert other.lines[0].comment == line(1).comment


def test_half_a_line_of_a_killed_writer_is_named_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    journal = Journal(str(path))
    journal.append(line(1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    journal.append(line(2))
    with pytest.raises(ConfigError, match=r"audit\.jsonl, line 2: .*; correct or remove this line"):
        journal.refresh()
    path.write_text(
        "".join(f"{each}\n" for each in path.read_text().split("\n") if each[-1:] == "}")
    )
    journal.refresh()
    assert [each.pair_id for each in journal.lines] == ["pair-1", "pair-2"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"cannot be written .*--file"):
        Journal(str(tmp_path / "missing" / "audit.jsonl"))
