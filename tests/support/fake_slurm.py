#!/usr/bin/env python3
"""Stands for sbatch, squeue, scontrol, scancel and srun in tests: link it under those names. Its state is a folder, $FAKE_SLURM.

calls.jsonl   every call, as it was made
state.json    {"jobs": [{id, name, array, state, script, environment}], "next": 101, "max_array_size": 1001, "faults": {"sbatch": ["busy", ...], ...}}
              environment: what of sbatch's own the job begins with, by --export as Slurm 22.05 was seen to read it
A fault is used up by one call: busy (the controller's words), late (does its work, then never answers), never (never answers), garbage, refused.
"""
import json
import os
import pathlib
import re
import shlex
import sys
import time

FOLDER = pathlib.Path(os.environ["FAKE_SLURM"])
STATE = FOLDER / "state.json"


def load() -> dict:
    state = {"jobs": [], "next": 101, "max_array_size": 1001, "faults": {}}
    if STATE.exists():
        state.update(json.loads(STATE.read_text()))
    return state


def directives(script: str) -> dict[str, str]:
    options = {}
    for line in pathlib.Path(script).read_text().splitlines():
        if line.startswith("#SBATCH "):
            for word in shlex.split(line[len("#SBATCH "):], comments=True):
                name, _, value = word.partition("=")
                options[name] = value
        elif line and not line.startswith("#"):
            break
    return options


def exported(words: list[str], options: dict[str, str]) -> dict[str, str]:
    """The command line goes before $SBATCH_EXPORT, that before the script. Names without ALL carry nothing else, and srun is told the same."""
    given = [word.partition("=")[2] for word in words if word.startswith("--export=")]
    export = [*given, os.environ.get("SBATCH_EXPORT"), options.get("--export"), "ALL"]
    export = next(each for each in export if each)
    parts = export.split(",")
    environment = {name: value for name, value in os.environ.items() if "ALL" in parts or name in parts or name.startswith("SLURM_")}
    environment.update(part.split("=", 1) for part in parts if "=" in part and part.split("=")[0] not in environment)
    return environment if export == "ALL" else environment | {"SLURM_EXPORT_ENV": export}


def sbatch(words: list[str], state: dict) -> str:
    options = directives(words[-1])
    if "--test-only" in words:
        sys.stderr.write("sbatch: Job 9 to start at 2030-01-02T03:04:05 using 2 processors on nodes n1 in partition main\n")
        return ""
    array = options.get("--array", "")
    if array and int(re.sub(r"%.*", "", array).split("-")[1]) >= state["max_array_size"]:
        sys.stderr.write("sbatch: error: Batch job submission failed: Invalid job array specification\n")
        sys.exit(1)
    job = str(state["next"])
    state["next"] += 1
    state["jobs"].append({"id": job, "name": options["--job-name"], "array": array, "state": "PENDING", "script": pathlib.Path(words[-1]).read_text(),
                          "environment": exported(words, options)})
    return job + "\n"


def squeue(words: list[str], state: dict) -> str:
    names = next(word for word in words if word.startswith("--name=")).removeprefix("--name=").split(",")
    lines = ""
    for job in state["jobs"]:
        if job["name"] not in names:
            continue
        elements = [job["id"]]
        if job["array"]:
            first, last = re.sub(r"%.*", "", job["array"]).split("-")
            elements = [f"{job['id']}_{index}" for index in range(int(first), int(last) + 1)]
        reason = "Priority" if job["state"] == "PENDING" else "None"
        lines += "".join(f"{element}|{job['state']}|2030-01-02T03:04:05|{job['name']}|{reason}\n" for element in elements)
    return lines


def main() -> None:
    name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
    with open(FOLDER / "calls.jsonl", "a") as calls:
        calls.write(json.dumps([name, *words]) + "\n")
    state = load()
    fault = ""
    if "--test-only" not in words and state["faults"].get(name):
        fault = state["faults"][name].pop(0)
    output = ""
    if fault in ("", "late"):
        if name == "sbatch":
            output = sbatch(words, state)
        elif name == "squeue":
            output = squeue(words, state)
        elif name == "scontrol":
            output = f"Configuration data as of now\nMaxArraySize            = {state['max_array_size']}\nMaxDBDMsgs = 1\n"
        elif name == "scancel":
            for job in state["jobs"]:
                if job["id"] in words:
                    job["state"] = "CANCELLED"
    STATE.write_text(json.dumps(state))
    if fault in ("late", "never"):
        time.sleep(60)
    if fault == "busy":
        sys.stderr.write(f"{name}: error: Unable to contact slurm controller (connect failure)\n")
        sys.exit(1)
    if fault == "refused":
        sys.stderr.write(f"{name}: error: invalid partition specified: nowhere\n")
        sys.exit(1)
    sys.stdout.write("Welcome to the cluster!\n<html>\n" if fault == "garbage" else output)


if __name__ == "__main__":
    main()
