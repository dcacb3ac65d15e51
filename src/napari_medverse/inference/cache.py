"""What has been computed before, within a budget of bytes."""

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

Fact = TypeVar("Fact")

DEFAULT_BYTES = 1 << 30
_MEMO_LIMIT = 200_000


@dataclass(slots=True)
class _Entry:
    value: Any
    nbytes: int
    kind: str
    rank: tuple
    run: int
    tick: int


class FeatureCache:
    """Keeps encoder features and window outputs between runs, at most `max_bytes` of them.

    Keys tell the content of everything that reaches a value (weights, crops of target, images and
    labels, the coarse prediction), so that a hit is exact: a run with the cache gives the same
    numbers as one without it.

    A run over more windows than fit would, with plain least-recently-used eviction, throw out each
    entry just before the next run asks for it. So what the last two runs did not touch goes first,
    then what ranks lowest (fine levels, windows out of view); and a new entry that ranks below all
    others is not taken in.

    Parameters
    ----------
    max_bytes
        Budget for the arrays held.
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        self._max_bytes = int(max_bytes)
        self.hits: Counter[str] = Counter()
        self.misses: Counter[str] = Counter()
        self.alignments: Any = None
        self._entries: dict[Hashable, _Entry] = {}
        self._memo: dict[Hashable, Any] = {}
        self._nbytes = 0
        self._run = 0
        self._tick = 0
        self._lock = threading.RLock()

    @property
    def max_bytes(self) -> int:
        """Budget for the arrays held; what is over a smaller one is given up at once."""
        return self._max_bytes

    @max_bytes.setter
    def max_bytes(self, value: int) -> None:
        with self._lock:
            self._max_bytes = int(value)
            if self._nbytes > self._max_bytes:
                for key in self._least_worthy():
                    self._discard(key)
                    if self._nbytes <= self._max_bytes:
                        break

    @property
    def nbytes(self) -> int:
        """Bytes held now; never more than `max_bytes`."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._entries)

    def begin_run(self) -> None:
        """Tell that a new run starts; entries that runs no longer touch are given up first."""
        with self._lock:
            self._run += 1

    def get(self, key: Hashable, kind: str) -> Any | None:
        """Return what is stored, or None; counted as a hit or a miss of its kind."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.misses[kind] += 1
                return None
            self._tick += 1
            entry.run, entry.tick = self._run, self._tick
            self.hits[kind] += 1
            return entry.value

    def put(self, key: Hashable, value: Any, nbytes: int, kind: str, rank: tuple) -> bool:
        """Store a value unless it ranks below everything that would have to go for it.

        Parameters
        ----------
        key
            Tells the content of everything that reaches the value.
        value, nbytes
            What to keep and its size.
        kind
            Name under which `describe` counts it.
        rank
            Lower is kept longer.

        Returns
        -------
        bool
            Whether it was stored.
        """
        with self._lock:
            self._discard(key)
            if nbytes > self.max_bytes or not self._make_room(nbytes, rank):
                return False
            self._tick += 1
            self._entries[key] = _Entry(value, nbytes, kind, rank, self._run, self._tick)
            self._nbytes += nbytes
            return True

    def remember(self, key: Hashable, fact: Any) -> None:
        """Keep a small fact (a digest, an intensity range) that costs time to find again."""
        with self._lock:
            if len(self._memo) >= _MEMO_LIMIT:
                self._memo.clear()
            self._memo[key] = fact

    def recall(self, key: Hashable) -> Any | None:
        """Return a fact that was remembered, or None."""
        return self._memo.get(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._memo.clear()
            self._nbytes = 0
            self.alignments = None

    def describe(self) -> str:
        """Say what is held, for the user: sizes in MB by kind."""
        with self._lock:
            kinds: dict[str, list[int]] = {}
            for entry in self._entries.values():
                kinds.setdefault(entry.kind, []).append(entry.nbytes)
        parts = [
            f"{len(sizes)} {kind} ({sum(sizes) / 2**20:.0f} MB)"
            for kind, sizes in sorted(kinds.items())
        ]
        held = ", ".join(parts) or "nothing"
        return f"{self._nbytes / 2**20:.0f} of {self.max_bytes / 2**20:.0f} MB: {held}"

    def _make_room(self, nbytes: int, rank: tuple) -> bool:
        excess = self._nbytes + nbytes - self.max_bytes
        if excess <= 0:
            return True
        victims = []
        for key in self._least_worthy():
            entry = self._entries[key]
            if not self._stale(entry) and entry.rank <= rank:
                break
            victims.append(key)
            excess -= entry.nbytes
            if excess <= 0:
                break
        if excess > 0:
            return False
        for key in victims:
            self._discard(key)
        return True

    def _least_worthy(self) -> list[Hashable]:
        """Return all keys, those that go first in front."""
        return sorted(self._entries, key=lambda key: self._worth(self._entries[key]), reverse=True)

    def _stale(self, entry: _Entry) -> bool:
        return entry.run < self._run - 1

    def _worth(self, entry: _Entry) -> tuple:
        """Sort key: the greatest goes first."""
        return self._stale(entry), entry.rank, -entry.tick

    def _discard(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._nbytes -= entry.nbytes


def nbytes_of(parts: Iterable[Any]) -> int:
    """Return the bytes of several arrays."""
    return sum(part.nbytes for part in parts)


def kept(
    cache: FeatureCache | None,
    key: Hashable,
    kind: str,
    rank: tuple,
    make: Callable[[], Fact],
    size_of: Callable[[Fact], int] = lambda value: value.nbytes,
) -> Fact:
    """Return what the cache holds by a key; else make it and store it; see `FeatureCache.put`."""
    found = None if cache is None else cache.get(key, kind)
    if found is None:
        found = make()
        if cache is not None:
            cache.put(key, found, size_of(found), kind, rank)
    return found


def recalled(cache: FeatureCache | None, key: Hashable, find: Callable[[], Fact]) -> Fact:
    """Return the small fact that a cache remembers by a key; else find and remember it."""
    found = None if cache is None else cache.recall(key)
    if found is None:
        found = find()
        if cache is not None:
            cache.remember(key, found)
    return found
