"""Bugs to be planted in the store: each takes one protection away, and names tests that have to find it."""

from __future__ import annotations

__all__ = ("MUTANTS", "Mutant")

from dataclasses import dataclass

MODEL = "tests/store/test_model.py::test_a_shared_store"
UNDONE = "tests/store/test_model.py::test_what_another_left_undone"
COLLECTED = "tests/store/test_model.py::test_begun_while_others_collect"
BLOBS_TOLD = "tests/store/test_verify.py::test_the_loop_goes_on_while_blobs_are_told"


@dataclass(frozen=True)
class Mutant:
    """A planted bug.

    Args:
        name: what is taken away.
        harm: what then can happen: why it matters.
        old: the text that is there once, in whichever module of `aioruntime/store`.
        new: the text in its place.
        found_by: tests of which one has to fail.
        hangs: whether a test shows it by never ending.
        quick: tests of which one has to fail, too, and that take seconds.
    """

    name: str
    harm: str
    old: str
    new: str
    found_by: tuple[str, ...] = (MODEL,)
    hangs: bool = False
    quick: tuple[str, ...] = ()


MUTANTS = (
    Mutant(
        "fsync-of-content",
        "After a power cut a blob has its name, and zeros.",
        "            os.fsync(self._fd)\n",
        "            pass\n",
        quick=(UNDONE,),
    ),
    Mutant(
        "fsync-of-directory",
        "After a power cut a blob or a name is gone that was said to be on the disk.",
        "        os.fsync(fd)\n",
        "        pass\n",
        quick=(UNDONE,),
    ),
    Mutant(
        "fsync-of-a-blob's-directory",
        "After a power cut a blob is gone that was said to be on the disk.",
        "            with directories.synced(self._blob.parent):\n",
        "            with suppress():\n",
        quick=("tests/store/test_ingest.py::test_commit_is_durable_in_order",),
    ),
    Mutant(
        "fsync-before-naming",
        "A name outlasts a power cut, its blob does not: the writer died before it was durable.",
        "        directories.sync(self._layout.blob(digest).parent)\n",
        "",
        (UNDONE,),
        quick=(UNDONE,),
    ),
    Mutant(
        "fsync-tried-once",
        "The second fsync succeeds without the data: Linux has marked them clean.",
        "        except BaseException:\n            # Linux",
        "        except StoreError:\n            file.sync(self.length)\n"
        "        except BaseException:\n            # Linux",
        ("tests/store/test_model.py::test_what_the_disk_did_not_take",),
        quick=("tests/store/test_model.py::test_what_the_disk_did_not_take",),
    ),
    Mutant(
        "rename-of-documents",
        "Who dies while writing leaves half a list of names.",
        "\n            file.rename(path)\n",
        "\n            with open_existing(path) or create(path) as target:\n"
        "                target.truncate(0)\n"
        "                target.write_at(0, data, 0)\n"
        "                target.sync()\n"
        "            file.unlink()\n",
        quick=("tests/store/test_model.py::test_removed_after_it_was_half_renamed",),
    ),
    Mutant(
        "rename-of-blobs",
        "Who dies while a blob is copied into place leaves half of it under its name.",
        "                file.rename(self._blob)\n",
        "                with files.open_existing(self._blob) or files.create(self._blob) as new:\n"
        "                    new.truncate(0)\n"
        "                    new.write_at(0, file.read_at(0, self.length), 0)\n"
        "                    new.sync()\n"
        "                file.unlink()\n",
        quick=("tests/store/test_ingest.py::test_commit_is_durable_in_order",),
    ),
    Mutant(
        "lock",
        "Two write one blob, or one list of names, at the same time.",
        "            self._locked = filelock.lock_descriptor(self._fd, blocking=False)\n",
        "            self._locked = True\n",
        quick=(MODEL,),
    ),
    Mutant(
        "same-file-once-locked",
        "The lock is on a file that the last holder removed; the next one locks another, and both write.",
        "        return found is not None and found.same_file(self.status())\n",
        "        return self._locked\n",
        quick=(MODEL,),
    ),
    Mutant(
        "hash-at-commit",
        "A registry's wrong bytes become a blob.",
        "        if actual != self.digest:\n            self.drop()\n",
        "        if False:\n            self.drop()\n",
        quick=("tests/store/test_ingest.py::test_wrong_bytes_are_refused",),
    ),
    Mutant(
        "hash-of-what-was-kept",
        "What the disk did to a partial blob becomes a part of a blob that was said to be checked.",
        "        if actual != self.digest:\n            self.drop()\n",
        "        if actual != self.digest and not self._found:\n            self.drop()\n",
        ("tests/store/test_ingest.py::test_altered_partial_is_caught_at_commit",),
        quick=("tests/store/test_ingest.py::test_altered_partial_is_caught_at_commit",),
    ),
    Mutant(
        "size-at-commit",
        "What came so far is thrown away as wrong, instead of kept.",
        "        if self.size is not None and self.length != self.size:\n",
        "        if False:\n",
        quick=("tests/store/test_ingest.py::test_short_blob_is_not_committed",),
    ),
    Mutant(
        "size-of-what-is-there",
        "A blob that was cut short passes for the whole one.",
        "found.regular and self.size in (None, found.size)\n",
        "found.regular\n",
        quick=("tests/store/test_ingest.py::test_shortened_blob_is_written_again",),
    ),
    Mutant(
        "leases-before-unlinking",
        "A blob goes that somebody began to use since it was decided.",
        " and digest not in busy",
        "",
        ("tests/store/test_prune.py::test_used_between_plan_and_removal",),
        quick=("tests/store/test_prune.py::test_used_between_plan_and_removal",),
    ),
    Mutant(
        "names-before-unlinking",
        "A blob goes that somebody named since it was decided.",
        "if digest not in needed and ",
        "if ",
        (COLLECTED,),
        quick=("tests/store/test_prune.py::test_used_between_plan_and_removal",),
    ),
    Mutant(
        "leases-of-the-living",
        "Leases count for nothing, and what is in use goes.",
        "        with file:\n            if file.try_lock():\n",
        "        with file:\n            if True:\n",
        quick=("tests/store/test_prune.py::test_what_is_in_use_stays",),
    ),
    Mutant(
        "leases-of-the-dead",
        "What a killed process had in use stays for ever.",
        "        with file:\n            if file.try_lock():\n",
        "        with file:\n            if False:\n",
        ("tests/store/test_prune.py",),
        quick=("tests/store/test_prune.py",),
    ),
    Mutant(
        "pins",
        "A pinned image is collected.",
        "if not image.pinned and ",
        "if ",
        quick=("tests/store/test_prune.py::test_pinned_stays",),
    ),
    Mutant(
        "pins-since-the-plan",
        "An image is collected that somebody pinned since it was decided.",
        "        kept = named.pinned if self._plan.forced else named.pinned | leased(self._layout)\n",
        "        kept = frozenset() if self._plan.forced else leased(self._layout)\n",
        (COLLECTED,),
        quick=(COLLECTED,),
    ),
    Mutant(
        "names-go-first",
        "Who dies while removing leaves a name without its blobs.",
        "    try:\n        await threads.poll(work.drop_names, what, layout.lock_file)\n    except",
        "    try:\n        await drop(work.drop_named_blobs, plan.blobs)\n"
        "        await threads.poll(work.drop_names, what, layout.lock_file)\n    except",
        quick=(MODEL,),
    ),
    Mutant(
        "record-of-names",
        "Another tool's lost update takes our names with it.",
        "        files.replace(layout.images, msgspec.json.encode(new, enc_hook=str))\n",
        "        pass\n",
        quick=("tests/store/test_names.py::test_lost_updates_come_back",),
    ),
    Mutant(
        "index-for-other-tools",
        "Other tools do not see our names.",
        "        if changed == raw or files.replace(layout.index, changed, over=seen):\n",
        "        if True:\n",
        quick=("tests/store/test_names.py::test_index_removed",),
    ),
    Mutant(
        "names-of-others-kept",
        "What another tool named is lost when we name something.",
        "            entries.append(old)\n",
        "            pass\n",
        quick=("tests/store/test_documents.py::test_foreign_index_members_are_kept",),
    ),
    Mutant(
        "full-disk-told",
        "A blob is said to be stored that the full disk did not take.",
        "                    done += os.pwrite(self._fd, rest, offset + done)\n",
        "                    try:\n"
        "                        done += os.pwrite(self._fd, rest, offset + done)\n"
        "                    except OSError:\n"
        "                        break\n",
        quick=("tests/store/test_disk.py::test_full_disk_is_told_and_resumed",),
    ),
    Mutant(
        "truncation-after-a-failed-write",
        "A part of a piece that the disk did not take whole stays at the end of a blob.",
        "                file.truncate(self.length)\n",
        "                pass\n",
        ("tests/store/test_disk.py::test_a_piece_that_came_half",),
        quick=("tests/store/test_disk.py::test_a_piece_that_came_half",),
    ),
    Mutant(
        "links-not-followed",
        "A link in a blob's place leads the store to read or write another file.",
        "_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK\n",
        "_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK\n",
        ("tests/store/test_damage.py",),
        quick=("tests/store/test_damage.py::test_no_file_in_a_blobs_place",),
    ),
    Mutant(
        "fifos-not-waited-for",
        "A FIFO in a blob's place hangs the store.",
        "_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK\n",
        "_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW\n",
        ("tests/store/test_damage.py",),
        hangs=True,
    ),
    Mutant(
        "hash-while-streaming",
        "A blob that was altered on the disk is given to an engine.",
        "        if self._offset == size:\n            self._check()\n        return data\n",
        "        return data\n",
        ("tests/store/test_damage.py",),
        quick=("tests/store/test_damage.py::test_stream_of_a_damaged_blob_never_ends_well",),
    ),
    Mutant(
        "sorted-by-parts",
        "The event loop stands still while 100,000 blobs are sorted in another thread.",
        "    parts = iter(lambda: sorted(islice(left, _SORTED_AT_ONCE), key=key), [])\n",
        "    parts = [sorted(left, key=key)]\n",
        (BLOBS_TOLD,),
        quick=(BLOBS_TOLD,),
    ),
)
