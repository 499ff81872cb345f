"""What the processes of torchrun exchange, and what they say of one that is lost."""

import os
import signal
import time

import pytest
from worlds import in_world

from lucidlm.errors import ConfigError, RunError
from lucidlm.runtime.distributed import World, joined
from lucidlm.runtime.ranks import ElsewhereError, Layout, Rank, this_rank


def exchanges() -> list:
    """One answer of each kind of exchange."""
    with joined(Layout(), device="cpu") as world:
        mine = world.rank.number
        numbers = [0.1 * 3**mine, 2.0**60 if mine == 0 else 1.0]
        return [
            world.exchanged([mine, 0.5]),
            world.total(numbers),
            world.any(mine == 1),
            world.any(False),
            world.first_says(mine == 0),
            world.told(lambda: {"said by": mine}),
            world.gathered(lambda: [mine, 0.1 + mine]),
        ]


def test_all_processes_get_the_same_from_each_exchange():
    answers = in_world(3, exchanges)
    assert answers[0] == [
        [[0.0, 0.5], [1.0, 0.5], [2.0, 0.5]],
        [0.1 + 0.1 * 3 + 0.1 * 9, 2.0**60 + 1.0 + 1.0],
        True,
        False,
        True,
        {"said by": 0},
        [[0, 0.1], [1, 1.1], [2, 2.1]],
    ]
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]


def reads_late() -> str:
    """What the first process tells last, which ends at once; the others are slow to read it."""
    with joined(Layout(), device="cpu") as world:
        if not world.first:
            time.sleep(1.5)
        return world.told(lambda: "last words")


def test_the_first_process_ends_only_after_the_others_have_read_what_it_told_last():
    assert in_world(3, reads_late) == ["last words"] * 3


def fails_somewhere(where: int) -> list[str]:
    """What each process raises where one fails, and that the world goes on."""
    with joined(Layout(), device="cpu") as world:

        def work() -> int:
            if world.rank.number == where:
                raise ConfigError("this one: do better")
            return 1

        said = []
        for way in (world.gathered, world.told):
            try:
                way(work)
                said.append("nothing")
            except (ConfigError, ElsewhereError) as error:
                said.append(f"{type(error).__name__} {error}")
        return [*said, str(world.total([1.0]))]


def test_an_error_of_one_process_ends_the_work_of_all_and_is_said_once():
    mine, elsewhere = (
        "ConfigError this one: do better",
        "ElsewhereError rank {}: ConfigError: this one: do better",
    )
    assert in_world(2, fails_somewhere, 1) == [
        [elsewhere.format(1), "nothing", "[2.0]"],
        [mine, "nothing", "[2.0]"],
    ]
    assert in_world(2, fails_somewhere, 0) == [[mine, mine, "[2.0]"], [elsewhere.format(0)] * 2 + ["[2.0]"]]


def loses(how: str, waiting: str) -> str:
    """What a process says of another one that is killed, or stopped, while it waits for it."""
    with joined(Layout(patience=2), device="cpu") as world:
        if world.rank.number == 0 and waiting == "told":
            os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        if world.rank.number == 1 and waiting != "told":
            os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        began = time.monotonic()
        try:
            world.told(lambda: 1) if waiting == "told" else world.total([1.0])
        except RunError as error:
            return f"{time.monotonic() - began:.0f} s: {error}"
    return "nothing"


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_process_that_is_lost_is_named_within_the_patience(how):
    said = in_world(3, loses, how, "total", expect=2)
    for rank in (0, 2):
        seconds, _, line = said[rank].partition(" s: ")
        assert line.startswith("no sign of life from rank 1;"), said
        assert float(seconds) < 12


def test_a_world_of_one_exchanges_with_itself_and_needs_no_group():
    world = World()
    assert world.first
    assert world.alone
    assert world.total([1.5, 2.0]) == [1.5, 2.0]
    assert world.gathered(lambda: 3) == [3]
    assert world.told(lambda: "x") == "x"
    assert list(world.rows(5)) == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="do better"):
        world.told(lambda: (_ for _ in ()).throw(ConfigError("do better")))


def test_rows_are_divided_equally_or_the_nearest_numbers_of_processes_are_named():
    worlds = [World(Rank(number=number, size=4)) for number in range(4)]
    assert [row for world in worlds for row in world.rows(12)] == list(range(12))
    with pytest.raises(RunError, match=r"12 windows .* 5 processes; start 4 or 6 \(--nproc"):
        World(Rank(number=0, size=5)).rows(12)
    with pytest.raises(RunError, match=r"1 window .* 2 processes; start 1 \(--nproc"):
        World(Rank(number=0, size=2)).rows(1)


@pytest.mark.parametrize(
    ("layout", "size", "fits", "expected"),
    [
        (Layout(), 1, 1, (1, 1)),
        (Layout(), 8, 1, (8, 1)),
        (Layout(), 8, 3, (2, 4)),
        (Layout(), 6, 4, (1, 6)),
        (Layout(), 4, 9, (1, 4)),
        (Layout(shards=2), 8, 1, (4, 2)),
        (Layout(replicas=2), 8, 1, (2, 4)),
        (Layout(replicas=4, shards=2), 8, 1, (4, 2)),
    ],
)
def test_replicas_and_shards_follow_from_memory_or_from_the_flags(layout, size, fits, expected):
    assert layout.over(size, fits=fits) == expected


@pytest.mark.parametrize("layout", [Layout(shards=3), Layout(replicas=3), Layout(replicas=2, shards=2)])
def test_a_layout_that_torchruns_processes_do_not_make_up_is_refused(layout):
    with pytest.raises(ConfigError, match="torchrun has started 8; give numbers whose product is 8, "):
        layout.over(8, fits=1)


def test_what_shares_a_run_among_processes_is_refused_without_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for layout in (Layout(replicas=1), Layout(shards=1), Layout(patience=5)):
        with pytest.raises(ConfigError, match=r"start with torchrun .*, or leave them out"), joined(layout):
            pass
    with joined(Layout()) as world:
        assert world.alone


def test_without_torchrun_there_is_one_process_and_half_of_its_variables_are_an_error(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert this_rank() == Rank()
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match="start with torchrun, or unset RANK"):
        this_rank()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert this_rank() == Rank(number=1, size=4, launched=True)
