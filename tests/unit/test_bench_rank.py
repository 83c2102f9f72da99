"""Ranking all items: the exact way is exact, and what the others lose is counted right."""

import json

import pytest
import torch
from click.testing import CliRunner
from stream_samples import small
from torch import Tensor

from headrace.streams.bench import rank
from headrace.streams.cli.main import main
from headrace.streams.errors import StreamsError

CPU = torch.device("cpu")
N_ITEMS, N_USERS, WIDTH = 5_000, 40, 16


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, Tensor]:
    return rank.draw(N_ITEMS, N_USERS, WIDTH, seed=1)


def plainly(items: Tensor, users: Tensor) -> Tensor:
    return (users @ items.T).topk(min(rank.LENGTH, len(items)), 1).indices


# 40 items are fewer than a list, 64 two whole groups, 5,000 end in a part of a group.
@pytest.mark.parametrize("n_items", [40, 64, 1_000, 5_000])
def test_groups_in_parts_give_what_all_products_at_once_give(
    n_items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, users = rank.draw(n_items, N_USERS, WIDTH, seed=n_items)
    products = users @ items.T
    best = products.topk(min(rank.LENGTH, n_items), 1).values
    for at_once in (2**20, 1):  # all, and a group at a time
        monkeypatch.setitem(rank._AT_ONCE, "cpu", at_once)
        found = rank.exact(items, torch.float32, CPU).search(users)
        torch.testing.assert_close(products.gather(1, found), best)
        assert all(len(row.unique()) == len(row) for row in found)


def test_items_of_the_last_part_of_a_group_are_found() -> None:
    items = torch.zeros(100, 2)
    items[98] = torch.tensor([3.0, 0.0])  # 96 items are in groups
    items[5] = torch.tensor([2.0, 0.0])
    found = rank.exact(items, torch.float32, CPU).search(torch.tensor([[1.0, 0.0]]))
    assert found[0, :2].tolist() == [98, 5]


def test_recall_is_the_share_of_the_true_items_in_any_place() -> None:
    truth = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = torch.tensor([[4, 9, 1, 3], [0, 9, 8, -1]])  # three of four, one of four
    assert rank.recall(found, truth) == 0.5


def test_items_are_drawn_around_centres_and_users_have_a_one_for_the_bias(
    drawn: tuple[Tensor, Tensor],
) -> None:
    items, users = drawn
    assert items.shape == (N_ITEMS, WIDTH + 1)
    # A centre and what lies around it, each of variance one; the bias alone.
    assert items[:, :WIDTH].var().item() == pytest.approx(2.0, rel=0.05)
    assert items[:, WIDTH].var().item() == pytest.approx(1.0, rel=0.1)
    assert (users[:, WIDTH] == 1).all()


def test_int8_ranks_columns_of_any_scale(drawn: tuple[Tensor, Tensor]) -> None:
    items, users = drawn
    scale = torch.logspace(-2, 2, WIDTH + 1)
    found = rank.int8(items * scale, CPU).search(users / scale)
    assert rank.recall(found, plainly(items, users)) > 0.9


@pytest.mark.parametrize("way", ["bfloat16", "int8"])
def test_fewer_bits_lose_little_and_take_less(way: str, drawn: tuple[Tensor, Tensor]) -> None:
    items, users = drawn
    index = rank.int8(items, CPU) if way == "int8" else rank.exact(items, torch.bfloat16, CPU)
    assert 0.95 < rank.recall(index.search(users), plainly(items, users)) < 1
    assert (
        index.size_bytes == N_ITEMS * {"bfloat16": 17 * 2, "int8": 24}[way]
    )  # 8 columns at a time


def test_approximate_search_finds_enough_in_part_of_the_lists(
    drawn: tuple[Tensor, Tensor],
) -> None:
    items, users = drawn
    truth = plainly(items, users)
    lists = rank.inverted_lists(items, threads=1)
    index = rank.searching_enough(lists, users, truth)
    assert rank.ENOUGH <= rank.recall(index.search(users), truth) < 1
    assert lists.nlist == 70
    assert lists.nprobe < lists.nlist
    lists.nprobe //= 2  # half as many are not enough
    assert rank.recall(index.search(users), truth) < rank.ENOUGH
    assert index.size_bytes == N_ITEMS * (17 * 4 + 8) + 70 * 17 * 4


def test_every_size_has_a_row_for_each_way() -> None:
    done: list[int] = []
    rows = rank.measure(
        small(), sizes=[1_000, 2_000], repeats=2, n_users=N_USERS, on_progress=done.append
    )
    assert [row["items"] for row in rows] == ["1,000"] * 4 + ["2,000"] * 4
    assert [str(row["way"]).split()[0] for row in rows[:4]] == [
        "float32",
        "bfloat16",
        "int8",
        "IVF,",
    ]
    assert len(done) == rank.steps([1_000, 2_000], repeats=2)
    assert [row["recall@50"] for row in rows if row["way"] == "float32"] == [1.0, 1.0]


def test_sizes_end_with_what_was_asked_or_fits() -> None:
    settings = small().model_copy(update={"encoder_width": 9, "device": "cpu"})
    assert rank.sizes(settings, 50_000) == [10_000, 50_000]
    assert rank.sizes(settings, 10_000) == [10_000]
    assert rank.sizes(settings, 10**12)[-1] < 10**12


def test_without_faiss_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "find_spec", lambda _: None)
    with pytest.raises(StreamsError, match=r"pip install 'headrace\[bench\]'"):
        rank.measure(small(), sizes=[1_000], repeats=1)


def test_command_tells_json_with_the_machine() -> None:
    result = CliRunner().invoke(main, ["bench", "rank", "--up-to", "1000", "--repeats", "1"])
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["bench"], told["asked"]) == ("rank", {"up_to": 1000, "repeats": 1})
    assert {row["items"] for row in told["rows"]} == {"1,000"}
    assert told["machine"]["faiss-cpu"]
