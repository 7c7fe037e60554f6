"""SipHash-1-3: CPython hashes bytes by it too, with keys that we can make zero."""

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.core.replay.seed import seed_of, siphash13

_MASK = (1 << 64) - 1

# Computed by CPython 3.11 under PYTHONHASHSEED=0, whose keys are zero.
VECTORS = {
    b"\xff": 3476900567878811119,
    b"01942000-0000-7000-8000-000000000000\xff": 435866618226522915,
}


def hash_in_cpython(data: list[bytes]) -> list[int]:
    script = "import sys; print(*(hash(eval(line)) for line in sys.stdin))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(map(repr, data)),
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) & _MASK for word in done.stdout.split()]


@pytest.mark.skipif(
    sys.hash_info.algorithm != "siphash13",
    reason=f"this CPython hashes bytes by {sys.hash_info.algorithm}",
)
def test_every_length_hashes_as_in_cpython() -> None:
    generator = random.Random(1)
    data = [generator.randbytes(length) for length in range(1, 80) for _ in range(5)]
    assert [siphash13(item) for item in data] == hash_in_cpython(data)


@pytest.mark.parametrize(("data", "expected"), VECTORS.items())
def test_known_vectors(data: bytes, expected: int) -> None:
    assert siphash13(data) == expected


def test_seed_is_the_hash_of_the_id_and_a_closing_byte() -> None:
    assert seed_of("") == siphash13(b"\xff")
    assert seed_of("é") == siphash13(b"\xc3\xa9\xff")


@given(st.text(max_size=50))
def test_seed_fits_64_bits_and_depends_on_the_id_alone(run_id: str) -> None:
    try:
        seed = seed_of(run_id)
    except UnicodeEncodeError:  # an id with a lone surrogate is refused elsewhere
        return
    assert 0 <= seed <= _MASK
    assert seed == seed_of(run_id)
