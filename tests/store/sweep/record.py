"""What a process has done, told to another that outlives it: memory that both have."""

from __future__ import annotations

import mmap
import threading

_ROOM = 2**18
_LENGTH = 4


class Record:
    """Lines that survive the process that said them, however it ended. Made before the fork."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _ROOM)
        self._lock = threading.Lock()

    def say(self, *words: object) -> None:
        line = " ".join(map(str, words)).encode() + b"\n"
        with self._lock:
            end = self._end()
            assert end + len(line) <= _ROOM
            self._memory[end : end + len(line)] = line
            self._memory[:_LENGTH] = (end - _LENGTH + len(line)).to_bytes(_LENGTH, "big")

    def _end(self) -> int:
        return _LENGTH + int.from_bytes(self._memory[:_LENGTH], "big")

    def lines(self) -> list[str]:
        return self._memory[_LENGTH : self._end()].decode().splitlines()

    def said(self, line: str) -> bool:
        return line in self.lines()

    def told(self, first: str) -> list[str]:
        """Return what follows *first* in each line that begins with it."""
        return [line[len(first) + 1 :] for line in self.lines() if line.startswith(f"{first} ")]

    def numbers(self, first: str) -> dict[str, int]:
        """Return the last number told by each "*first* name number"."""
        return {name: int(number) for name, number in (rest.split() for rest in self.told(first))}

    def close(self) -> None:
        self._memory.close()
