"""Random faults in a checkpoint of several ranks, each with the tensors whose read has to find it."""

import json
import shutil
from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.checkpoint import Checkpoint, manifest_digest
from ms_codegeex.formats.checkpoint_writing import Slice, write_ranks

SHAPES = {"table": (24, 16), "matrix": (16, 24), "bias": (24,), "scale": (), "optimizer.m.table": (24, 16)}
ROWS = 5  # of a chunk, so that small tensors have several


def random_ranks(generator, values):
    """The slices of 1 to 4 ranks: each tensor along a random axis, or whole on one rank."""
    world = int(generator.choice([1, 2, 4]))
    ranks = [{} for _ in range(world)]
    for name, array in values.items():
        axis = int(generator.integers(-1, array.ndim)) if array.ndim else -1
        if axis < 0:
            ranks[int(generator.integers(world))][name] = Slice(array.shape, (0,) * array.ndim, array)
            continue
        for number, part in enumerate(np.split(array, world, axis)):
            offset = [0] * array.ndim
            offset[axis] = number * part.shape[axis]
            ranks[number][name] = Slice(array.shape, tuple(offset), np.ascontiguousarray(part))
    return ranks


def write_pair(root, generator):
    """Two checkpoints of the same mesh, of steps 1 and 2, in `root`; returns their values and slices."""
    values = [{name: generator.standard_normal(shape).astype("f4") for name, shape in SHAPES.items()} for _ in range(2)]
    state = generator.bit_generator.state
    for step, arrays in enumerate(values, 1):
        generator.bit_generator.state = state  # the same mesh
        write_ranks(root / f"step-{step:08d}", step, {"samples": step}, random_ranks(generator, arrays))
    return values


def _files(path):
    return sorted(path.glob("*.safetensors"))


def flip(path, other, generator, file=None):
    """One bit of a file of tensors."""
    file = file or generator.choice(_files(path))
    data = bytearray(file.read_bytes())
    data[int(generator.integers(len(data)))] ^= 1 << int(generator.integers(8))
    file.write_bytes(data)


def flip_manifest(path, other, generator):
    """One bit of the manifest."""
    flip(path, other, generator, path / "manifest.json")


def truncate(path, other, generator):
    """The end of a file, or of the manifest, is missing."""
    file = generator.choice([*_files(path), path / "manifest.json"])
    content = file.read_bytes().rstrip()  # without the manifest's last line break it is still whole
    file.write_bytes(content[: int(generator.integers(len(content)))])


def missing(path, other, generator):
    """A file is gone."""
    generator.choice([*_files(path), path / "manifest.json"]).unlink()


def stale(path, other, generator):
    """A file is that of another step."""
    file = generator.choice(_files(path))
    shutil.copyfile(other / file.name, file)


def zeroed(path, other, generator):
    """A part of a file was never written, as after a crash of the machine."""
    file = generator.choice(_files(path))
    data = np.frombuffer(file.read_bytes(), np.uint8).copy()
    begin = int(generator.integers(len(data)))
    part = data[begin : begin + int(generator.integers(1, 400))]
    if not part.any():
        return flip(path, other, generator)
    part[:] = 0
    return file.write_bytes(data.tobytes())


def reordered(path, other, generator):
    """The files of two ranks are exchanged."""
    files = _files(path)
    if len(files) < 2:
        return stale(path, other, generator)
    one, two = generator.choice(files, 2, replace=False)
    one.rename(path / "kept")
    two.rename(one)
    return (path / "kept").rename(two)


def renamed(path, other, generator):
    """The directory has the name of another step."""
    shutil.rmtree(other)
    path.rename(other)


def swapped_manifest(path, other, generator):
    """The manifest is that of another step, or one that says it is of this step."""
    manifest = json.loads((other / "manifest.json").read_text())
    if generator.integers(2):
        manifest["step"] = 1
        manifest["sha256"] = manifest_digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def edited_manifest(path, other, generator):
    """A value of the manifest is another one."""
    manifest = json.loads((path / "manifest.json").read_text())
    name = str(generator.choice(list(manifest["tensors"])))
    change = int(generator.integers(4))
    if change == 0:
        manifest["samples"] += 1
    elif change == 1:
        del manifest["tensors"][name]
    elif change == 2:
        manifest["tensors"][name]["slices"][0]["chunks"][0] = "0" * 32
    else:
        manifest["files"][next(iter(manifest["files"]))] += 8
    (path / "manifest.json").write_text(json.dumps(manifest))


FAULTS = [flip, flip_manifest, truncate, missing, stale, zeroed, reordered, renamed, swapped_manifest, edited_manifest]


def read_everything(path, values):
    """Read every tensor, whole and by random windows; True if all is as it was written."""
    checkpoint = Checkpoint(path)
    generator = np.random.default_rng(0)
    equal = [set(checkpoint.names) == set(values), checkpoint.step == 1, checkpoint.state == {"samples": 1}]
    for name, array in values.items():
        window = [tuple(sorted(generator.integers(0, size + 1, 2).tolist())) for size in array.shape]
        inside = array[tuple(slice(*part) for part in window)]
        equal.append(checkpoint.tensor(name, window).tobytes() == inside.tobytes())
        equal.append(checkpoint.tensor(name).tobytes() == array.tobytes())
    return all(equal)


def silent_faults(root: Path, generator, rounds):
    """Inject each kind of fault `rounds` times; returns those that reading everything did not find, and how many sound
    checkpoints were refused."""
    missed, refused = [], 0
    for _ in range(rounds):
        values, _ = write_pair(root / "sound", generator)
        for fault in FAULTS:
            folder = shutil.copytree(root / "sound", root / "faulty")
            path = folder / "step-00000001"
            try:
                refused += not read_everything(path, values)
            except UserError:
                refused += 1
            fault(path, folder / "step-00000002", generator)
            try:
                read_everything(path if path.exists() else folder / "step-00000002", values)
                missed.append(fault.__name__)
            except UserError:
                pass
            shutil.rmtree(folder)
        shutil.rmtree(root / "sound")
    return missed, refused
