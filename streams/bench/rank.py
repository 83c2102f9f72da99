"""Top-50 of all items for a micro-batch of 512 users: exact, in fewer bits, and approximate.

The service ranks some 250 gathered candidates of each user instead; this is what ranking all items
by the encoder's affinity alone would cost. The affinity is an inner product and a bias; the bias is
one more column of the items, where users have a one. The ways:

- *float32*: exact, and what the recall of the others is against;
- *bf16*: the same products of shorter numbers;
- *int8*: products by ``torch._int_mm``, the one int8 product that torch has on both CPU and CUDA;
- *IVF*: faiss's inverted lists, on the CPU: k-means, then only the lists nearest to a user are
  searched, as many as it takes to find ``ENOUGH`` of the exact list.

Items are drawn around centres, as far from their own as centres are from each other, so half of the
variance is between clusters: without clusters an approximate search looks worse than it is, with
tight ones better. A user is as far from some item.

Letters: B users, C items looked into, D width and bias, G items of a group, K list, N items.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from headrace.streams.bench.measuring import Figure, Row, fitting, seconds_of, sizes_up_to
from headrace.streams.errors import StreamsError
from headrace.streams.model_settings import pick_device
from headrace.streams.settings import Settings

T = TypeVar("T")

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)  # of the catalogue
N_USERS = 512
LENGTH = 50
N_WAYS = 4
ENOUGH = 0.95  # recall of the approximate search
COLUMN_BYTES = 20  # of an item, over all ways and what is copied to build them
_AT_ONCE = {"cpu": 2**20, "cuda": 2**28}  # products: what a cache holds, and what fills a GPU
_GROUP = 32  # items: near the fastest from 10 k to 10 M of them
_LOOKED_INTO = 32  # users at once
_INT8_LIMIT = 127
_INT8_COLUMNS = 8  # come at a time: CUDA refuses other widths
_LIST_SAMPLE = 64  # items of a list for k-means
_ID_BYTES = 8
_DRAWN_AT_ONCE = 1_000_000


class Index(NamedTuple):
    """Items, ready to be ranked in one way."""

    way: str
    search: Callable[[Tensor], Tensor]  # (B, D) float32 users to (B, K) items, first place first
    size_bytes: int


def measure(
    settings: Settings,
    *,
    sizes: list[int],
    repeats: int,
    n_users: int = N_USERS,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Row]:
    """Return a row for each size and way; ``on_progress`` is called as often as ``steps`` says.

    Raises:
        StreamsError: faiss is not installed.
    """
    if find_spec("faiss") is None:
        raise StreamsError("the approximate search needs faiss: pip install 'headrace[bench]'")
    torch.set_num_threads(settings.threads)
    return [row for n in sizes for row in _rows(settings, n, n_users, repeats, on_progress)]


def sizes(settings: Settings, up_to: int) -> list[int]:
    """Return the sizes to measure, the last one ``up_to`` or what fits."""
    item_bytes = COLUMN_BYTES * (settings.encoder_width + 1)
    up_to = fitting(up_to, bytes_each=item_bytes, what="items")
    if pick_device(settings).startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(pick_device(settings))
        up_to = fitting(up_to, bytes_each=item_bytes, what="items on the GPU", free=free)
    return sizes_up_to(up_to, SIZES)


def steps(sizes: list[int], repeats: int) -> int:
    """Return the steps of ``measure``: each way is built, and ranks in each repeat."""
    return len(sizes) * N_WAYS * (1 + repeats)


def _rows(
    settings: Settings,
    n_items: int,
    n_users: int,
    repeats: int,
    on_progress: Callable[[int], None],
) -> list[Row]:
    """Measure all ways in turn, once for each repeat and once before that."""
    items, users = draw(n_items, n_users, settings.encoder_width, seed=settings.seed)
    indexes, build_s = [], []
    for index, built_s in _indexes(settings, items, users):
        indexes.append(index)
        build_s.append(built_s)
        on_progress(1)
    found = [index.search(users) for index in indexes]  # fills caches too
    seconds: list[list[float]] = [[] for _ in indexes]
    for _ in range(repeats):
        for index, taken in zip(indexes, seconds, strict=True):
            taken.append(seconds_of(partial(index.search, users)))
            on_progress(1)
    return [
        {
            "items": f"{n_items:,}",
            "way": index.way,
            "users/s": Figure.of([n_users / s for s in taken]),
            "ms": Figure.of([1000 * s for s in taken]),
            f"recall@{LENGTH}": recall(lists, found[0]),
            "bytes/item": index.size_bytes / n_items,
            "build, s": built_s,
        }
        for index, lists, taken, built_s in zip(indexes, found, seconds, build_s, strict=True)
    ]


def _indexes(settings: Settings, items: Tensor, users: Tensor) -> Iterator[tuple[Index, float]]:
    """Yield the items in each way, and the seconds it took to build; the exact one first."""
    device = torch.device(pick_device(settings))
    index, built_s = _timed(lambda: exact(items, torch.float32, device))
    yield index, built_s
    yield _timed(lambda: exact(items, torch.bfloat16, device))
    yield _timed(lambda: int8(items, device))
    lists, built_s = _timed(lambda: inverted_lists(items, threads=settings.threads))
    yield searching_enough(lists, users, index.search(users)), built_s


def _timed(build: Callable[[], T]) -> tuple[T, float]:
    started_s = time.perf_counter()
    return build(), time.perf_counter() - started_s


def draw(n_items: int, n_users: int, width: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return (N, D) items, their bias last, and (B, D) users."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(math.isqrt(n_items), width, generator=random)
    items = torch.randn(n_items, width + 1, generator=random)
    for part in torch.split(items, _DRAWN_AT_ONCE):
        part[:, :width] += centres[torch.randint(len(centres), (len(part),), generator=random)]
    users = items[torch.randint(n_items, (n_users,), generator=random)]
    users += torch.randn(users.shape, generator=random)
    users[:, width] = 1
    return items, users


def recall(found: Tensor, truth: Tensor) -> float:
    """Return the mean share of the (B, K) true items that were found, in any place."""
    return (truth[:, :, None] == found[:, None, :]).any(2).float().mean().item()


# ------------------------------------------------------------------------------------- exact


def exact(items: Tensor, dtype: torch.dtype, device: torch.device) -> Index:
    """Return items whose products are all taken, as numbers of a type."""
    stored = items.to(device, dtype)

    def product(users: Tensor, items: Tensor) -> Tensor:
        return (users @ items).float()  # on a CPU the largest of bf16 takes longer than this

    def search(users: Tensor) -> Tensor:
        return top(users.to(device, dtype), stored, product).cpu()

    return Index(str(dtype).removeprefix("torch."), search, stored.nbytes)


def int8(items: Tensor, device: torch.device) -> Index:
    """Return items as int8, a scale for each column, which goes into the users instead.

    A user's own scale changes no order, so the products rank as they are.
    """
    scale = items.abs().amax(0) / _INT8_LIMIT  # (D,)
    room = -len(scale) % _INT8_COLUMNS
    stored = F.pad((items / scale).round_().to(torch.int8), (0, room)).to(device)

    def search(users: Tensor) -> Tensor:
        scaled = users * scale
        scaled *= _INT8_LIMIT / scaled.abs().amax(1, keepdim=True)
        return top(
            F.pad(scaled.round().to(device, torch.int8), (0, room)), stored, torch._int_mm
        ).cpu()

    return Index("int8", search, stored.nbytes)


def top(users: Tensor, items: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the (B, K) items with the largest products with each user, first place first.

    1. Take the products with some items at a time, and keep the largest of each group of items.
    2. The K best are in the K groups where that is largest, or among the last, of no group.
    3. Take the products with those again, in float32, and rank them.
    """
    n, width = items.shape
    grouped, last = items[: n // _GROUP * _GROUP], items[n // _GROUP * _GROUP :]
    at_once = max(1, _AT_ONCE[items.device.type] // (len(users) * _GROUP)) * _GROUP
    parts = torch.split(grouped, at_once)
    products = (product(users, part.T).view(len(users), -1, _GROUP) for part in parts)
    largest = torch.cat([each.amax(2) for each in products], 1)
    groups = largest.topk(min(LENGTH, largest.shape[1]), 1, sorted=False).indices  # (B, K)
    places = torch.arange(n, device=items.device)
    lists = []
    for tile, best in zip(*(torch.split(t, _LOOKED_INTO) for t in (users, groups)), strict=True):
        looked_into = grouped.view(-1, _GROUP * width)[best].view(len(tile), -1, width)
        scores = [torch.bmm(looked_into.float(), tile.float()[:, :, None]).squeeze(2)]
        scores.append(tile.float() @ last.float().T)
        of = [places[: len(grouped)].view(-1, _GROUP)[best].flatten(1)]
        of.append(places[len(grouped) :].expand(len(tile), -1))
        order = torch.cat(scores, 1).topk(min(LENGTH, n), 1).indices
        lists.append(torch.cat(of, 1).gather(1, order))
    return torch.cat(lists)


# ------------------------------------------------------------------------------- approximate


def inverted_lists(items: Tensor, *, threads: int) -> Any:
    """Return a ``faiss.IndexIVFFlat`` with as many lists of items as a list has items."""
    import faiss

    faiss.omp_set_num_threads(threads)
    n, d = items.shape
    lists: Any = faiss.index_factory(d, f"IVF{math.isqrt(n)},Flat", faiss.METRIC_INNER_PRODUCT)
    lists.cp.min_points_per_centroid, lists.cp.max_points_per_centroid = 1, _LIST_SAMPLE
    lists.train(items.numpy())
    lists.add(items.numpy())
    return lists


def searching_enough(lists: Any, users: Tensor, truth: Tensor) -> Index:
    """Return an index that searches the fewest lists, by doubling, that find ``ENOUGH``."""

    def search(users: Tensor) -> Tensor:
        return torch.from_numpy(lists.search(users.numpy(), LENGTH)[1])

    while lists.nprobe < lists.nlist and recall(search(users), truth) < ENOUGH:
        lists.nprobe *= 2
    way = f"IVF, {lists.nprobe:,} of {lists.nlist:,} lists"
    centres = 4 * lists.d * lists.nlist
    return Index(way, search, (lists.code_size + _ID_BYTES) * lists.ntotal + centres)
