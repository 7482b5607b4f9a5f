#!/usr/bin/env bash
# expect_failure.sh CODE PATTERN COMMAND...: passes when the command ends with that exit code and says something that matches.
code=$1 pattern=$2
shift 2
said=$("$@" 2>&1)
ended=$?
echo "$said"
[[ $ended == "$code" ]] || { echo "expected exit code $code, got $ended"; exit 1; }
grep -Eq "$pattern" <<<"$said" || { echo "expected a message like: $pattern"; exit 1; }
