#!/usr/bin/env python3
"""Checks that the rooms keep to their order: who may include whom, who may use which library, what a CMake target may link.

    check_rooms.py ROOT        prints one line per violation (path:line: sentence) and exits with 1 when there is any

Standard library only. The rules are the table of rooms: a room may use those before it in ROOMS, never those after it.
"""
import re
import sys
from pathlib import Path

ROOMS = "core comm routing store data diagnose model train spec plan launch cli".split()
RANK = {room: i for i, room in enumerate(ROOMS)}

# Libraries that belong to some rooms alone: how their headers and CMake targets look, and who may use them.
LIBRARIES = {
    "HDF5": (r"(hdf5\w*|H5\w*|highfive/.*)\.(h|hpp)", r"hdf5::\w+|hdf5(_hl)?", {"store"}),
    "yaml-cpp": (r"yaml-cpp/.*", r"yaml-cpp(::yaml-cpp)?", {"spec"}),
    "MPI": (r"mpi(-ext)?\.h", r"MPI::\w+", {"comm", "store"}),
    "torch": (r"(torch|ATen|c10|caffe2)/.*", r"moesweep_torch\w*|torch|torch_cpu|c10", {"routing", "model", "train"}),
    "CUDA": (r"(nccl|cuda\w*)\.h|cuda/.*", r"CUDA::\w+|NCCL::\w+|nccl", {"comm", "model"}),
    "CLI11": (r"CLI/.*", r"CLI11::CLI11", {"cli"}),
}
# What login-node code (configs, spec, plan) must not reach through any chain of includes or links.
HEAVY = ("torch", "MPI", "HDF5", "CUDA")
LIGHT_ROOMS = {"spec", "plan"}
# Files of src/ that are no room: the precompiled header of all torch users.
SHARED_SOURCES = {"torch_pch.cpp", "torch_pch.hpp"}
SUFFIXES = {".hpp", ".h", ".cpp", ".cc", ".cu", ".cuh", ".ipp"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def without_comments(text):
    """The text with comments blanked out, lines kept."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group(0)) if match.group(0).startswith("/") else match.group(0)
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.DOTALL)


class Tree:
    """The sources under ROOT with their includes, and the CMake targets of the rooms with what they link."""

    def __init__(self, root):
        self.root = Path(root).resolve()
        self.public = self.root / "include" / "moesweep"
        self.private = self.root / "src"
        self.includes = {}  # file -> [(line, quote or angle, name, file meant or None)]
        self.targets = {}   # target -> (room, CMakeLists.txt, line, [linked names])
        for folder in (self.public, self.private):
            for path in sorted(folder.rglob("*")):
                if path.suffix in SUFFIXES:
                    self.includes[path] = [(line, kind, name, self.resolve(path, kind, name)) for line, kind, name in self.read(path)]
        for path in sorted(self.private.glob("*/CMakeLists.txt")):
            self.read_cmake(path)

    @staticmethod
    def read(path):
        for number, line in enumerate(without_comments(path.read_text()).splitlines(), 1):
            match = INCLUDE.match(line)
            if match:
                yield number, match.group(1), match.group(2)

    def resolve(self, path, kind, name):
        """The file of this tree that an include means, or None for the world's."""
        places = [self.root / "include"]
        if kind == '"':
            places = [path.parent, self.root / "include"]
            room = self.room(path)
            if room:
                places.append(self.private / room)
            places += [self.private, self.root]
        for place in places:
            candidate = (place / name).resolve()
            if candidate.is_file() and self.root in candidate.parents:
                return candidate
        return None

    def room(self, path):
        """The room that a file lies in, or None."""
        for top in (self.public, self.private):
            if top in path.parents:
                parts = path.relative_to(top).parts
                return parts[0] if len(parts) > 1 else None
        return None

    def read_cmake(self, path):
        text = re.sub(r"#[^\n]*", "", path.read_text())
        room = path.parent.name
        for match in re.finditer(r"\b(moesweep_room|target_link_libraries)\s*\(([^)]*)\)", text):
            words = match.group(2).split()
            line = text[:match.start()].count("\n") + 1
            if not words:
                continue
            if match.group(1) == "moesweep_room":
                target, linked, section = "moesweep_" + words[0], [], ""
                for word in words[1:]:
                    if word in ("SOURCES", "USES", "PRIVATE_USES"):
                        section = word
                    elif word == "TORCH":
                        linked.append("moesweep_torch")
                    elif section in ("USES", "PRIVATE_USES"):
                        linked.append(word)
            else:
                target = words[0]
                linked = [w for w in words[1:] if w not in ("PUBLIC", "PRIVATE", "INTERFACE")]
            old = self.targets.get(target, (room, path, line, []))
            self.targets[target] = (old[0], old[1], old[2], old[3] + [w.replace("moesweep::", "moesweep_") for w in linked])

    def relative(self, path):
        return path.relative_to(self.root).as_posix()


def library_of(name, column):
    for library, rule in LIBRARIES.items():
        if re.fullmatch(rule[column], name):
            return library
    return None


def is_light(tree, path):
    """Configs, spec and plan work where neither torch nor MPI nor HDF5 is."""
    return path.stem == "config" or tree.room(path) in LIGHT_ROOMS


def heavy_includes(tree, start):
    """Chains from `start` to headers of heavy libraries: [(library, [files], header)]."""
    found, seen, todo = [], {start}, [(start, [start])]
    while todo:
        path, chain = todo.pop(0)
        for _, _, name, target in tree.includes.get(path, []):
            library = library_of(name, 0) if target is None else None
            if library in HEAVY:
                found.append((library, chain, name))
            if target is not None and target not in seen:
                seen.add(target)
                todo.append((target, chain + [target]))
    return found


def check_includes(tree):
    for path, includes in tree.includes.items():
        room = tree.room(path)
        here = tree.relative(path)
        if room not in RANK:
            if not (path.parent == tree.private and path.name in SHARED_SOURCES):
                yield f"{here}:1: lies in no room ({', '.join(ROOMS)})"
            continue
        is_public = tree.public in path.parents
        for line, _, name, target in includes:
            where = f"{here}:{line}:"
            library = library_of(name, 0) if target is None else None
            if library and room not in LIBRARIES[library][2]:
                yield f"{where} <{name}> belongs to {library}, which {' and '.join(sorted(LIBRARIES[library][2]))} alone may include, not {room}"
            if target is None:
                named = re.match(r"moesweep/([a-z_]+)/", name)
                other = named.group(1) if named else None
                if other in RANK and RANK[other] > RANK[room]:
                    yield f"{where} {room} includes {name}: {other} is a room above it"
                continue
            other = tree.room(target)
            if other not in RANK:
                if target.parent != tree.private or target.name not in SHARED_SOURCES:
                    yield f"{where} includes {tree.relative(target)}, which lies in no room"
                continue
            if RANK[other] > RANK[room]:
                yield f"{where} {room} includes {tree.relative(target)}: {other} is a room above it"
            elif tree.private in target.parents and other != room:
                yield f"{where} {room} includes {tree.relative(target)}, a private header of {other}: use its door, include/moesweep/{other}"
            if is_public and tree.private in target.parents:
                yield f"{where} a public header includes {tree.relative(target)}, which is not installed"
        if is_light(tree, path):
            for library, chain, name in heavy_includes(tree, path):
                if len(chain) > 1 or room in LIBRARIES[library][2]:
                    via = " -> ".join(tree.relative(p) for p in chain[1:]) or "itself"
                    yield f"{here}:1: reaches {library} ({name}) through {via}; configs, spec and plan do without"


def check_cycles(tree):
    """Headers of one room must not include one another in a circle."""
    state = {}

    def visit(path, chain):
        state[path] = "open"
        for line, _, _, target in tree.includes.get(path, []):
            if target is None or target not in tree.includes:
                continue
            if state.get(target) == "open":
                circle = chain[chain.index(target):] + [target]
                yield f"{tree.relative(path)}:{line}: a circle of includes: {' -> '.join(tree.relative(p) for p in circle)}"
            elif target not in state:
                yield from visit(target, chain + [target])
        state[path] = "done"

    for path in tree.includes:
        if path not in state:
            yield from visit(path, [path])


def room_of_target(name):
    rest = name.removeprefix("moesweep_")
    fits = [room for room in ROOMS if rest == room or rest.startswith(room + "_")]
    return max(fits, key=len) if name.startswith("moesweep_") and fits else None


def heavy_links(tree, target):
    found, seen, todo = [], {target}, [(target, [target])]
    while todo:
        name, chain = todo.pop(0)
        for linked in tree.targets.get(name, (None, None, 0, []))[3]:
            library = library_of(linked, 1)
            if library in HEAVY:
                found.append((library, chain + [linked]))
            elif linked not in seen:
                seen.add(linked)
                todo.append((linked, chain + [linked]))
    return found


def check_targets(tree):
    for target, (room, path, line, linked) in tree.targets.items():
        where = f"{tree.relative(path)}:{line}:"
        if room not in RANK:
            yield f"{where} {target} is built in {room}, which is no room"
            continue
        for name in linked:
            library = library_of(name, 1)
            if library and room not in LIBRARIES[library][2]:
                yield f"{where} {target} links {name}: {library} is for {' and '.join(sorted(LIBRARIES[library][2]))} alone"
            other = room_of_target(name)
            if other and RANK[other] > RANK[room]:
                yield f"{where} {target} links {name}: {other} is a room above {room}"
        if target.endswith("_config") or room in LIGHT_ROOMS:
            for library, chain in heavy_links(tree, target):
                yield f"{where} {target} links {library} through {' -> '.join(chain[1:])}; configs, spec and plan do without"


def violations(root):
    tree = Tree(root)
    if not tree.includes:
        return [f"{root}: there are no sources under include/moesweep and src"]
    found = []
    for check in (check_includes, check_cycles, check_targets):
        found += check(tree)
    return sorted(set(found))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = violations(sys.argv[1])
    for line in found:
        print(line)
    if found:
        print(f"{len(found)} violations of the order of the rooms: {' < '.join(ROOMS)}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
