"""Which versions of an engine's parts have faults that a hostile image could use."""

from __future__ import annotations

import pytest

from aioruntime.engine.known_faults import known_faults


@pytest.mark.parametrize(
    ("part", "faults"),
    [
        ("runc 1.1.5+ds1", ["CVE-2024-21626", "CVE-2025-31133", "CVE-2026-41579"]),
        ("runc 1.1.12", ["CVE-2025-31133", "CVE-2026-41579"]),
        ("runc 1.2.8", ["CVE-2026-41579"]),
        ("runc 1.3.6", []),
        ("runc 1.4.2", ["CVE-2026-41579"]),
        ("runc 1.5.0", []),
        ("containerd 1.6.20~ds1", ["CVE-2024-40635"]),
        ("containerd 1.7.27", []),
        ("containerd v2.1.0", []),
        ("podman 4.3.1", ["CVE-2026-55686"]),
        ("podman 5.8.0-dev", []),
        ("engine 20.10.24+dfsg1", []),
        ("conmon 0", []),
    ],
)
def test_releases(part: str, faults: list[str]) -> None:
    """THREATS I10: a part is named with each fault that its line of releases had not mended yet."""
    sentences = known_faults([part])

    assert len(sentences) == len(faults)
    assert all(f"mends {fault}" in sentence for fault, sentence in zip(faults, sentences, strict=True))
    assert all(sentence.startswith(part) for sentence in sentences)
