#!/usr/bin/env python3
"""Holds the checker of the rooms against made-up trees: a clean one passes, and each violation is found, alone, with its line."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import check_rooms

CLEAN = {
    "include/moesweep/core/error.hpp": "#pragma once\n#include <string>\n",
    "include/moesweep/comm/mpi.hpp": "#pragma once\n#include <mpi.h>\n#include \"moesweep/core/error.hpp\"\n",
    "include/moesweep/routing/config.hpp": "#pragma once\n#include \"moesweep/core/error.hpp\"\n",
    "include/moesweep/routing/scores.hpp": "#pragma once\n#include <ATen/ATen.h>\n#include \"moesweep/routing/config.hpp\"\n",
    "include/moesweep/store/record.hpp": "#pragma once\n#include \"moesweep/comm/mpi.hpp\"\n",
    "include/moesweep/train/config.hpp": "#pragma once\n#include \"moesweep/routing/config.hpp\"\n",
    "include/moesweep/spec/sweep.hpp": "#pragma once\n#include \"moesweep/train/config.hpp\"\n",
    "src/torch_pch.hpp": "#include <ATen/ATen.h>\n",
    "src/core/error.cpp": "#include \"moesweep/core/error.hpp\"\n// #include \"moesweep/cli/run.hpp\"\n/*\n#include <hdf5.h>\n*/\n",
    "src/comm/mpi.cpp": "#include \"moesweep/comm/mpi.hpp\"\n",
    "src/store/hdf5.hpp": "#pragma once\n#include <hdf5.h>\n",
    "src/store/record.cpp": "#include \"moesweep/store/record.hpp\"\n#include \"hdf5.hpp\"\n",
    "src/spec/sweep.cpp": "#include \"moesweep/spec/sweep.hpp\"\n#include <yaml-cpp/yaml.h>\n",
    "src/core/CMakeLists.txt": "moesweep_room(core SOURCES error.cpp)\n",
    "src/comm/CMakeLists.txt": "moesweep_room(comm SOURCES mpi.cpp USES moesweep::core MPI::MPI_CXX)\n",
    "src/routing/CMakeLists.txt": "moesweep_room(routing_config SOURCES c.cpp USES moesweep::core)\n"
                                  "moesweep_room(routing SOURCES s.cpp USES moesweep::routing_config moesweep::comm TORCH)\n",
    "src/store/CMakeLists.txt": "moesweep_room(store SOURCES record.cpp USES moesweep::comm PRIVATE_USES hdf5::hdf5)\n",
    "src/train/CMakeLists.txt": "moesweep_room(train_config SOURCES c.cpp USES moesweep::routing_config)\n",
    "src/spec/CMakeLists.txt": "moesweep_room(spec SOURCES sweep.cpp USES moesweep::train_config PRIVATE_USES yaml-cpp)\n",
    "src/plan/CMakeLists.txt": "moesweep_room(plan SOURCES cost.cpp USES moesweep::train_config)\n",
}

# What is changed in the clean tree, where the complaint must be, and what it must say.
VIOLATIONS = [
    # upwards
    ("src/core/error.cpp", "#include \"moesweep/comm/mpi.hpp\"\n", ":1:", "comm is a room above it"),
    ("src/core/error.cpp", "\n  #  include <moesweep/spec/sweep.hpp>\n", ":2:", "spec is a room above it"),
    ("src/comm/mpi.cpp", "#include \"../store/hdf5.hpp\"\n", ":1:", "store is a room above it"),
    ("src/store/record.cpp", "#include \"moesweep/launch/run.hpp\"\n", ":1:", "launch is a room above it"),  # not written yet
    ("include/moesweep/store/record.hpp", "#include \"../train/config.hpp\"\n", ":1:", "train is a room above it"),
    # private headers of others
    ("src/train/trial.cpp", "#include \"store/hdf5.hpp\"\n", ":1:", "a private header of store"),
    ("src/train/trial.cpp", "#include \"src/store/hdf5.hpp\"\n", ":1:", "a private header of store"),
    ("src/train/trial.cpp", "#include \"../store/hdf5.hpp\"\n", ":1:", "a private header of store"),
    ("include/moesweep/store/record.hpp", "#include \"hdf5.hpp\"\n", ":1:", "is not installed"),
    # libraries
    ("src/train/trial.cpp", "#include <hdf5.h>\n", ":1:", "belongs to HDF5"),
    ("src/train/trial.cpp", "#include \"H5Dpublic.h\"\n", ":1:", "belongs to HDF5"),
    ("src/train/trial.cpp", "#include <mpi.h>\n", ":1:", "belongs to MPI"),
    ("src/train/trial.cpp", "#include <yaml-cpp/node/node.h>\n", ":1:", "belongs to yaml-cpp"),
    ("src/diagnose/testbed.cpp", "#include <torch/torch.h>\n", ":1:", "belongs to torch"),
    ("src/launch/run.cpp", "#include <c10/core/Device.h>\n", ":1:", "belongs to torch"),
    ("src/train/trial.cpp", "#include <nccl.h>\n", ":1:", "belongs to CUDA"),
    ("src/plan/cost.cpp", "#include <ATen/ATen.h>\n", ":1:", "belongs to torch"),
    # configs, spec and plan stay light, also through others
    ("include/moesweep/routing/config.hpp", "#include <ATen/ATen.h>\n", ":1:", "reaches torch (ATen/ATen.h) through itself"),
    ("src/plan/cost.cpp", "#include \"moesweep/store/record.hpp\"\n", ":1:",
     "reaches MPI (mpi.h) through include/moesweep/store/record.hpp -> include/moesweep/comm/mpi.hpp"),
    ("include/moesweep/train/config.hpp", "#include \"moesweep/routing/scores.hpp\"\n", ":1:", "reaches torch"),
    # shape
    ("src/helpers/text.cpp", "#include <string>\n", ":1:", "lies in no room"),
    ("src/main.cpp", "#include <string>\n", ":1:", "lies in no room"),
    ("include/moesweep/everything.hpp", "#pragma once\n", ":1:", "lies in no room"),
    ("include/moesweep/core/error.hpp", "#pragma once\n#include \"moesweep/core/error.hpp\"\n", ":2:", "a circle of includes"),
    # targets
    ("src/core/CMakeLists.txt", "moesweep_room(core SOURCES error.cpp USES moesweep::store)\n", ":1:", "store is a room above core"),
    ("src/plan/CMakeLists.txt", "moesweep_room(plan SOURCES cost.cpp PRIVATE_USES hdf5::hdf5)\n", ":1:", "HDF5 is for store alone"),
    ("src/plan/CMakeLists.txt", "moesweep_room(plan SOURCES cost.cpp USES moesweep::routing)\n", ":1:",
     "moesweep_plan links torch through moesweep_routing -> moesweep_torch"),
    ("src/routing/CMakeLists.txt", "moesweep_room(routing_config SOURCES c.cpp TORCH)\n", ":1:", "moesweep_routing_config links torch"),
    ("src/comm/CMakeLists.txt", "moesweep_room(comm SOURCES mpi.cpp TORCH)\n", ":1:", "torch is for model and routing and train alone"),
    ("src/core/CMakeLists.txt", "moesweep_room(core SOURCES error.cpp)\n# words\ntarget_link_libraries(moesweep_core PUBLIC MPI::MPI_CXX)\n", ":1:",
     "MPI is for comm and store alone"),
]


def write(folder, files):
    for name, text in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class CheckRooms(unittest.TestCase):
    def test_clean_tree_passes(self):
        with tempfile.TemporaryDirectory() as folder:
            write(folder, CLEAN)
            self.assertEqual(check_rooms.violations(folder), [])

    def test_each_violation_is_found(self):
        for name, text, line, sentence in VIOLATIONS:
            with self.subTest(file=name, sentence=sentence), tempfile.TemporaryDirectory() as folder:
                write(folder, CLEAN | {name: text})
                found = check_rooms.violations(folder)
                self.assertTrue([v for v in found if v.startswith(name + line) and sentence in v], found)

    def test_empty_tree_is_no_pass(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(len(check_rooms.violations(folder)), 1)

    def test_exit_code(self):
        with tempfile.TemporaryDirectory() as folder:
            write(folder, CLEAN)
            command = [sys.executable, check_rooms.__file__, folder]
            self.assertEqual(subprocess.run(command, capture_output=True).returncode, 0)
            write(folder, {"src/core/error.cpp": "#include <hdf5.h>\n"})
            result = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(result.returncode, 1)
            self.assertIn("src/core/error.cpp:1:", result.stdout)

    def test_order_is_the_one_that_is_built(self):
        text = (Path(__file__).resolve().parents[2] / "src" / "CMakeLists.txt").read_text()
        self.assertIn(" ".join(check_rooms.ROOMS), text)


if __name__ == "__main__":
    unittest.main()
