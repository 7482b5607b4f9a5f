"""Makes the files of the attack: HDF5 files that break the rules of analysis/FORMAT.md while every digest in them is right."""
import contextlib
import hashlib
import itertools
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

LIBVER = ("v110", "v110")  # HDF5 1.10 can't read a chunked file that h5py with HDF5 2 writes as `latest`
TYPES = {"float64": "f64", "float32": "f32", "int64": "i64", "int32": "i32", "uint8": "u8"}
BLOCK = 1 << 20
MOST_READ = 1 << 26  # bytes of a dataset that the attack itself reads
MARK = "the-secret-of-somebody-else"


def text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


# Digests, as FORMAT.md defines them ------------------------------------------------------------------------------------------------------------


def content_of_bytes(data: bytes) -> str:
    blocks = "".join(hashlib.sha256(data[i : i + BLOCK]).hexdigest() for i in range(0, len(data), BLOCK))
    return hashlib.sha256(blocks.encode()).hexdigest()


def content_of_zeros(size: int) -> str:
    """Of so many zero bytes, up to some terabytes, without making them."""
    whole, rest = divmod(size, BLOCK)
    hasher, block = hashlib.sha256(), hashlib.sha256(bytes(BLOCK)).hexdigest().encode()
    while whole > 0:
        count = min(whole, 1 << 16)
        hasher.update(block * count)
        whole -= count
    if rest:
        hasher.update(hashlib.sha256(bytes(rest)).hexdigest().encode())
    return hasher.hexdigest()


def content_of(dataset: h5py.Dataset) -> str:
    size = int(dataset.dtype.itemsize)
    for extent in dataset.shape or ():
        size *= int(extent)
    try:
        if size <= MOST_READ:
            return content_of_bytes(np.ascontiguousarray(dataset[...]).tobytes())
        if size <= 1 << 43:
            return content_of_zeros(size)
    except (OSError, TypeError, ValueError):
        pass
    return "0" * 64  # nobody can say


def type_of(dataset: h5py.Dataset) -> str:
    if dataset.dtype.kind == "S":
        return f"s{dataset.dtype.itemsize}"
    return TYPES.get(dataset.dtype.name, "f64")


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Every dataset by its path, also behind links; each object once."""
    found: dict[str, h5py.Dataset] = {}
    seen = set()

    def walk(group: h5py.Group, path: str, depth: int) -> None:
        for name in group:
            link = group.get(name, getlink=True)
            try:
                # Through an external link HDF5 would open the target for writing too.
                item = h5py.File(link.filename, "r")[link.path] if isinstance(link, h5py.ExternalLink) else group[name]
            except (KeyError, OSError):
                continue
            if item.file.filename == file.filename:
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    continue
                seen.add(address)
            if isinstance(item, h5py.Dataset):
                found[path + name] = item
            elif isinstance(item, h5py.Group) and depth < 20:
                walk(item, f"{path}{name}/", depth + 1)

    walk(file, "", 0)
    return dict(sorted(found.items(), key=lambda pair: pair[0].encode()))


def put_text(item: Any, name: str, value: str) -> None:
    item.attrs.create(name, np.bytes_(value.encode()))


def seal(file: h5py.File, contents: bool | None = None) -> None:
    """Writes the digests anew: `content` of each dataset where the file has them (or as `contents` says), and `digest`."""
    all_of_it = datasets(file)
    if contents is None:
        contents = any("content" in dataset.attrs for dataset in all_of_it.values())
    hasher = hashlib.sha256()

    def add(field: str) -> None:
        data = field.encode()
        hasher.update(b"%d:%s," % (len(data), data))

    for name in ("format", "id", "reason", "state", "version"):
        if name in file.attrs:
            add(name)
            add(text(file.attrs[name]))
    for path, dataset in all_of_it.items():
        content = content_of(dataset)
        if contents and dataset.file.filename == file.filename:
            put_text(dataset, "content", content)
        add(path)
        add(type_of(dataset))
        add(",".join(map(str, dataset.shape or ())))
        add(text(dataset.attrs.get("unit", "")))
        add(text(dataset.attrs.get("description", "")))
        add(str(int(dataset.attrs["metric"])) if "metric" in dataset.attrs else "")
        add(",".join(str(n) for n in dataset.attrs["shape"]) if "shape" in dataset.attrs else "")
        add(content)
    put_text(file, "digest", hasher.hexdigest())


@contextlib.contextmanager
def forged(path: pathlib.Path) -> Iterator[h5py.File]:
    """The file open for changes; sealed afterwards."""
    with h5py.File(path, "r+", libver=LIBVER) as file:
        contents = any("content" in dataset.attrs for dataset in datasets(file).values())
        yield file
        seal(file, contents)


# What may stand in the place of a dataset ------------------------------------------------------------------------------------------------------


def describe(file: h5py.File, path: str, attributes: dict[str, Any]) -> h5py.Dataset:
    for name, value in ({"unit": np.bytes_(b"1"), "description": np.bytes_(b"made to harm")} | attributes).items():
        file[path].attrs.create(name, value)
    return file[path]


def taken(file: h5py.File, path: str) -> tuple[Any, dict[str, Any]]:
    """Removes a dataset; its values and attributes, or four numbers where there was none."""
    if path not in file:
        return np.arange(4.0), {}
    values = file[path][...]
    attributes = {name: np.bytes_(value.encode()) if isinstance(value, str) else value for name, value in file[path].attrs.items() if name != "content"}
    del file[path]
    return values, attributes


def replace(file: h5py.File, path: str, values: Any = None, **options: Any) -> h5py.Dataset:
    """A dataset in the place of another, with its attributes; chunked and checksummed unless `options` say something else."""
    old, attributes = taken(file, path)
    if "shape" not in options:
        values = old if values is None else values
        options = {"data": values} | options
        if not options.pop("plain", False):
            options = {"chunks": tuple(max(1, n) for n in np.shape(values)), "fletcher32": True} | options
    file.create_dataset(path, **options)
    return describe(file, path, attributes)


def by_properties(file: h5py.File, path: str, change: Callable[[Any], Any], values: Any = None) -> None:
    """A dataset with a creation property list of its own."""
    old, attributes = taken(file, path)
    values = old if values is None else values
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    change(properties)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(values.shape)
    dataset = h5py.h5d.create(file.id, path.encode(), h5py.h5t.py_create(values.dtype, logical=True), space, properties, lcpl=links)
    if properties.get_external_count() == 0:
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values))
    describe(file, path, attributes)


def virtual(file: h5py.File, path: str, secret: pathlib.Path) -> None:
    old, attributes = taken(file, path)
    layout = h5py.VirtualLayout(shape=(old.size,), dtype="f8")
    layout[...] = h5py.VirtualSource(str(secret), "secret", shape=(64,))[: old.size]
    file.create_virtual_dataset(path, layout)
    describe(file, path, attributes)


def link(kind: Callable[[pathlib.Path, str], Any]) -> Callable[[h5py.File, str, pathlib.Path], None]:
    def harm(file: h5py.File, path: str, secret: pathlib.Path) -> None:
        if path in file:
            file.move(path, "/elsewhere")
        file[path] = kind(secret, "/elsewhere")

    return harm


def second_name(file: h5py.File, path: str, _: pathlib.Path) -> None:
    file[path + "2"] = file[path]


def loop(file: h5py.File, path: str, _: pathlib.Path) -> None:
    file[str(pathlib.PurePosixPath(path).parent) + "/again"] = file["/"]


def deep(levels: int) -> Callable[[h5py.File, str, pathlib.Path], None]:
    def harm(file: h5py.File, path: str, _: pathlib.Path) -> None:
        group = file[str(pathlib.PurePosixPath(path).parent)]
        for _level in range(levels):
            group = group.create_group("g")

    return harm


def bomb(file: h5py.File, path: str, _: pathlib.Path) -> None:
    """2 GiB of one chunk, of which a few hundred bytes are stored."""
    dataset = replace(file, path, shape=(1 << 28,), dtype="f8", chunks=(1 << 28,), compression=1, fletcher32=True)
    dataset.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 16)) + bytes(4))


def half_allocated(file: h5py.File, path: str, _: pathlib.Path) -> None:
    dataset = replace(file, path, shape=(8,), dtype="f8", chunks=(1,), fletcher32=True)
    dataset[0] = 1.0


def large_attribute(file: h5py.File, path: str, _: pathlib.Path) -> None:
    file[path].attrs.create("description", np.bytes_(b"x" * (1 << 20)))


def vlen_attribute(file: h5py.File, path: str, _: pathlib.Path) -> None:
    file[path].attrs.create("unit", "x" * 100, dtype=h5py.string_dtype())


def other_type(values: Callable[[Any], Any], **options: Any) -> Callable[[h5py.File, str, pathlib.Path], None]:
    def harm(file: h5py.File, path: str, _: pathlib.Path) -> None:
        replace(file, path, values(file[path][...]), **options)

    return harm


def huge(shape: tuple[int, ...], chunk: tuple[int, ...], **options: Any) -> Callable[[h5py.File, str, pathlib.Path], None]:
    def harm(file: h5py.File, path: str, _: pathlib.Path) -> None:
        replace(file, path, shape=shape, dtype="f8", chunks=chunk, fletcher32=True, **options)

    return harm


def plain(**options: Any) -> Callable[[h5py.File, str, pathlib.Path], None]:
    return lambda file, path, _: replace(file, path, plain=True, **options) and None


def external(file: h5py.File, path: str, secret: pathlib.Path) -> None:
    by_properties(file, path, lambda p: p.set_external(str(secret.with_suffix(".txt")).encode(), 0, h5py.h5f.UNLIMITED))


Harm = Callable[[h5py.File, str, pathlib.Path], None]

# Rules that hold for every file, also for one that `moesweep route` reads.
FOR_ALL: dict[str, Harm] = {
    "a product that overflows": huge((1 << 33, 1 << 33), (1024, 1024)),
    "a product that overflows to a small number": huge((1 << 32, (1 << 32) + 1), (1024, 1024)),
    "a product that overflows to zero": huge((1 << 31, 1 << 30), (1024, 1024)),
    "declared, huge and empty": huge((1 << 40,), (1 << 20,)),
    "declared, 5 GB and empty": huge((5 << 27,), (1 << 16,), compression=1),
    "declared and empty": huge((8,), (4,)),
    "some chunks alone": half_allocated,
    "a chunk of 2 GiB of which little is stored": bomb,
    "contiguous, 64 GB, never written": lambda file, path, _: replace(file, path, shape=(1 << 33,), dtype="f8") and None,
    "external": external,
    "virtual": virtual,
    "a soft link": link(lambda _, target: h5py.SoftLink(target)),
    "a dangling link": link(lambda _, target: h5py.SoftLink("/nowhere")),
    "an external link": link(lambda secret, _: h5py.ExternalLink(str(secret), "secret")),
    "an external link to a device": link(lambda secret, _: h5py.ExternalLink("/dev/zero", "secret")),
    "two names of one array": second_name,
    "a group inside itself": loop,
    "groups inside groups": deep(200),
    "scale and offset": plain(scaleoffset=3, chunks=True),
}

# Rules of the files that moesweep publishes.
FOR_OURS: dict[str, Harm] = {
    "contiguous": plain(),
    "compact": lambda file, path, _: by_properties(file, path, lambda p: p.set_layout(h5py.h5d.COMPACT)),
    "no checksum": plain(chunks=True),
    "shuffled": plain(chunks=True, shuffle=True, fletcher32=True),
    "texts of any length": lambda file, path, _: replace(file, path, np.array(["x"] * 4, dtype=object), dtype=h5py.string_dtype(), fletcher32=False,
                                                         plain=True, chunks=(4,)) and None,
    "compound": other_type(lambda v: np.zeros(v.shape, dtype=[("a", "f8"), ("b", "i4")])),
    "big-endian": other_type(lambda v: v.astype(">f8")),
    "opaque": other_type(lambda v: np.zeros(v.shape, dtype="V8")),
    "integers of 128 bits": other_type(lambda v: np.zeros((*v.shape, 2), dtype="u8")),
    "a number alone": lambda file, path, _: replace(file, path, 1.0, plain=True) and None,
    "a dataset without a shape": lambda file, path, _: replace(file, path, h5py.Empty("f8"), plain=True) and None,
    "a named type": lambda file, path, _: file.__setitem__(path + "3", np.dtype("f8")),
    "an attribute of a megabyte": large_attribute,
    "an attribute of any length": vlen_attribute,
}

OF_OURS = FOR_ALL | FOR_OURS


def make_secrets(folder: pathlib.Path) -> pathlib.Path:
    """Two files of a person, a text and an HDF5 file; gives the latter."""
    (folder / "secret.txt").write_text((MARK + " ") * 200)
    with h5py.File(folder / "secret.h5", "w", libver=LIBVER) as file:
        file["secret"] = np.frombuffer((MARK * 64)[:512].encode(), dtype="f8")
    return folder / "secret.h5"


# Other values, with right digests --------------------------------------------------------------------------------------------------------------


def put(file: h5py.File, path: str, values: Any, dtype: str, **attributes: Any) -> None:
    """Other values, chunked and checksummed as ours are."""
    replace(file, path, np.array(values, dtype=dtype))
    for name, value in attributes.items():
        file[path].attrs.create(name, value)


def put_json(file: h5py.File, kind: str, row: int, value: bytes) -> None:
    """Another text of one trial in an aggregate."""
    offsets, data = file[f"texts/{kind}/offsets"][()], file[f"texts/{kind}/data"][()].tobytes()
    parts = [data[a:b] for a, b in itertools.pairwise(offsets)]
    parts[row] = value
    put(file, f"texts/{kind}/offsets", np.cumsum([0, *map(len, parts)]), "i8")
    put(file, f"texts/{kind}/data", np.frombuffer(b"".join(parts), dtype=np.uint8), "u1")
