from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_grow.errors import InvalidRequestError
from onnx_grow.model.arrays import read_arrays


def test_an_array_or_an_archive_of_them(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.arange(3))
    np.savez(tmp_path / "two.npz", x=np.arange(3), y=np.float32(1))
    assert np.array_equal(read_arrays(tmp_path / "one.npy"), np.arange(3))
    archive = read_arrays(tmp_path / "two.npz")
    assert isinstance(archive, dict)
    assert archive.keys() == {"x", "y"}
    (tmp_path / "two.npz").unlink()
    assert archive["y"] == 1


def test_whatever_is_damaged_is_refused(tmp_path: Path) -> None:
    """Archives damaged at every byte, of which NumPy, zipfile, zlib and tokenize complain in their own ways."""
    np.save(tmp_path / "a.npy", np.arange(3))
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    np.savez_compressed(tmp_path / "b.npz", x=np.arange(300))
    refused = 0
    for file in sorted(tmp_path.iterdir()):
        content = file.read_bytes()
        for at in range(0, len(content), 2):
            file.write_bytes(content[:at] + bytes([content[at] ^ 0x25]) + content[at + 1 :])
            try:
                read_arrays(file)
            except InvalidRequestError as error:
                refused += str(error).startswith(f"{file} cannot be read: ")
    assert refused > 200


def test_messages_say_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InvalidRequestError, match=r"objects.npy cannot be read: .*pickle"):
        read_arrays(tmp_path / "objects.npy")
    with pytest.raises(
        InvalidRequestError, match=r"pickle.npy cannot be read: No such file or directory \(say another\)"
    ):
        read_arrays(tmp_path / "pickle.npy", hint="say another")
