"""Launch scripts mean what they mean to a shell, nothing is run, and what depends on the moment is told by line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rltrain_api.convert.expand import UnresolvedError, Variables, evaluate
from rltrain_api.convert.launch import Argument
from rltrain_api.convert.report import Level, Report
from rltrain_api.convert.script import NoLaunchError, ScriptReading, read_script, read_words
from rltrain_api.convert.syntax import ScriptError
from rltrain_api.convert.words import split_script

MAIN = "skyrl.train.entrypoints.main_base"
LAUNCH = f"python -m {MAIN}"


def read(script: str, **given: str) -> tuple[ScriptReading, Report]:
    report = Report()
    return read_script(script, given, report), report


def arguments(script: str, **given: str) -> list[str]:
    reading, _ = read(script, **given)
    return [argument.text if argument.known else f"? {argument.problem}" for argument in reading.launch.arguments]


def told(report: Report, level: Level | None = None) -> list[str]:
    return [f"{note.line}: {note.text}" for note in report.in_order() if level in (None, note.level)]


# What bash itself makes of these words is what we make of them: the same table is given to bash below.
WORDS: dict[str, tuple[str, list[str]]] = {
    "plain": ("", ["a=1"]),
    "continued": ("", ["a=1 \\\n  b=2", "c=\\\n3"]),
    "quotes": ("", ["a=\"x y\" 'b c'", '"it\'s"', "'a\"b'", "a\"b\"'c'd", "a\\ b", '"a\\"b"', '"a\\nb"', "'a\\'b"]),
    "a list in quotes": ('D="/data"', ["data=\"['$D/train.parquet','${D}/b']\""]),
    "variables": ("A=1 B=two", ["$A ${B} x$A-$B", '"$A $B"', "'$A'", "\\$A", "$A$B"]),
    "defaults": ('A="" B=b', ["${A:-x} ${A-y} ${B:-z} ${C:-c} ${C-d} ${B:+e} ${A:+f}", '"${C:-a b}"', "${C:-a b}"]),
    "defaults that are kept": (': "${A:="x y"}" "${B:=$A}" "${A:=no}"', ['"$A" "$B"']),
    "nested defaults": ("D=d", ['"${A:-${B:-$D}}" ${A:-"x y"}']),
    "blanks outside of quotes": ('A=" x  y "', ["$A", "a${A}b", '"$A"', "${A}b"]),
    "empty": ("A=", ["$A", '"$A"', "''", 'x"$A"']),
    "arithmetic": ("A=5", ["$((1024 * 8)) $((A + 2 * (3 - 1))) $((7 / 2)) $((-7 / 2)) $((-7 % 3)) $(($A * ${A}))"]),
    "arrays": ('A=(a "b c") ; A+=(d)', ['"${A[@]}"', "${A[@]}", "$A", 'x"${A[@]}"y']),
    "an array of several lines": ("A=(\n  a=1 # first\n  'b c'\n)", ['"${A[@]}"']),
    "appending": ("A=x ; A+=y", ["$A"]),
    "no arguments": ("", ['a "$@" $@ $* b']),
    "dollars": ("", ["a$ \"b$\" $'c d'"]),
    "comments": ("# x='\nA=1 # $(false)", ["a#b # c"]),
    "exports": ("export A=1 B='2 3'\nexport C\nC=4", ['$A "$B" $C']),
    "groups": ("{ A=1; }", ["$A"]),
    "and": ("cd / && A=1", ["$A"]),
    "a here-document": ("cat > /dev/null <<EOF\nA=1 ' \"\nEOF\nB=2", ["$B"]),
    "unset": ("A=1; unset A", ["${A:-gone}"]),
}


@pytest.mark.parametrize("case", WORDS)
def test_words_mean_what_they_mean_to_bash(case: str, tmp_path: Path) -> None:
    before, words = WORDS[case]
    script = f"{before}\n{LAUNCH} {' '.join(words)}\n"
    asked = f"cd {tmp_path}\nHOME='~'; unset A B C D\npython() {{ printf '%s\\0' \"${{@:3}}\"; }}\n{script}"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert arguments(script) == done.stdout.split("\0")[:-1]


UNRESOLVED = {
    "$(date)": "$(date) is known to the shell only",
    "`date`": "`date` is known to the shell only",
    "${A##*/}": "${A##*/} is known to the shell only",
    "$B": "B is not set in the script; give its value with --set B=VALUE",
    "${B:?say where}": "B must be set by the caller (say where); give its value with --set B=VALUE",
    "$1": "$1 is an argument of the script; write its value in its place",
    "$?": "$? is known to the shell only",
    "$((2 ** 3))": "$((2 ** 3)) is more arithmetic than is read here; write the number in its place",
    "$((1 / 0))": "$((1 / 0)) is more arithmetic than is read here; write the number in its place",
    "$HF_TOKEN": "HF_TOKEN looks like a secret by its name, and secrets are not carried over",
}


@pytest.mark.parametrize("word", UNRESOLVED)
def test_what_only_a_shell_could_know_is_said_and_costs_only_its_own_argument(word: str) -> None:
    assert arguments(f"{LAUNCH} a=1 b={word} c=3") == ["a=1", f"? {UNRESOLVED[word]}", "c=3"]


def test_the_root_of_an_unknown_value_is_what_has_to_be_given() -> None:
    script = f"ID=$(date)\nNAME=run-$ID\n{LAUNCH} trainer.run_name=$NAME"
    assert arguments(script) == [
        "? NAME cannot be known (line 2), because ID cannot be known (line 1), because $(date) is known to the shell "
        "only; give its value with --set ID=VALUE"
    ]
    assert arguments(script, ID="7") == ["trainer.run_name=run-7"]
    assert arguments(script, NAME="x") == ["trainer.run_name=x"]


def test_a_given_value_wins_over_what_the_script_assigns_and_that_is_said() -> None:
    reading, report = read(f"N=4\n{LAUNCH} a=$N", N="8", UNUSED="1")
    assert [argument.text for argument in reading.launch.arguments] == ["a=8"]
    assert told(report) == [
        "1: N has the value of --set, not the one assigned here",
        "None: --set UNUSED has no effect: the script does not use UNUSED",
    ]


COMMANDS = {
    f"python -m {MAIN} a=1": MAIN,
    f"python3.12 -m {MAIN} a=1": MAIN,
    f"/opt/venv/bin/python -m {MAIN} a=1": MAIN,
    f"uv run --isolated --extra fsdp -m {MAIN} a=1": MAIN,
    f"uv run --isolated --extra vllm --with foo python -m {MAIN} a=1": MAIN,
    f"A=1 B=2 nohup python -m {MAIN} a=1 > log.txt 2>&1 &": MAIN,
    f"exec env A=1 python -m {MAIN} a=1": MAIN,
    f"srun --nodes=2 -n 1 python -m {MAIN} a=1": MAIN,
    f"ray job submit --address http://x --no-wait -- python -m {MAIN} a=1": MAIN,
    f"bash -c 'cd /x && python -m {MAIN} a=1'": MAIN,
    f"(cd /x; python -m {MAIN} a=1)": MAIN,
    f"time python -m {MAIN} a=1 | tee log": MAIN,
    "uv run -m examples.train.algorithms.dapo.main_dapo a=1": "examples.train.algorithms.dapo.main_dapo",
    "python -m my_package.train a=1 trainer.epochs=1": "my_package.train",
    "python train.py a=1 trainer.epochs=1": "train.py",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_training_program_is_found_behind_whatever_starts_it(command: str) -> None:
    reading, _ = read(f"pip install x\n{command}")
    assert reading.launch.program == COMMANDS[command]
    assert reading.launch.arguments[0] == Argument(2, "a=1")


NO_LAUNCH = (
    "echo hi",
    "python -m pip install trainer",
    "python prepare.py --out x",
    f"# {LAUNCH} a=1",
    f"echo '{LAUNCH}'",
)


@pytest.mark.parametrize("script", NO_LAUNCH)
def test_other_programs_are_not_taken_for_the_training(script: str) -> None:
    with pytest.raises(NoLaunchError, match="no training program was found"):
        read(script)


NOT_CLOSED = {
    "a='x": (1, "the quote ' is not closed"),
    'a\nb="x': (2, 'the quote " is not closed'),
    "a\nb=$(x": (2, "the bracket ( is not closed"),
    "b=${x": (1, "the bracket { is not closed"),
    "cat <<EOF\nx\n": (1, "the here-document <<EOF has no end"),
    "a=" + "${A:-" * 40 + "}" * 40: (1, "expansions are nested more than 32 levels deep"),
}


@pytest.mark.parametrize("script", NOT_CLOSED)
def test_a_script_that_cannot_be_split_says_where(script: str) -> None:
    with pytest.raises(ScriptError) as caught:
        split_script(script)
    assert (caught.value.line, str(caught.value)) == NOT_CLOSED[script]


TOLD: dict[str, tuple[str, list[str]]] = {
    "what does nothing": (
        f"set -euo pipefail\necho hi\nmkdir -p x\n{LAUNCH} a=1",
        ["note 1: left out, having no effect on the run: `set`, `echo`, `mkdir`"],
    ),
    "preparation": (
        f"python examples/gsm8k_dataset.py --output_dir /data\n{LAUNCH} a=1",
        [
            "missing 1: the program examples/gsm8k_dataset.py is not carried over; if the run needs it, let an "
            "initializer do it (spec.storage.initializers)"
        ],
    ),
    "setting up": (
        f"source .venv/bin/activate\nsource env.sh\nconda activate x\npip install foo\nray start --head\n{LAUNCH} a=1",
        [
            "note 1: `source .venv/bin/activate` is left out: pods have the environment of their image",
            "missing 2: `source env.sh` is not read: give the variables that it sets with --set, and add those that it "
            "exports to runtime.env",
            "note 3: `conda` is left out: pods have the environment of their image",
            "check 4: `pip install` is left out: the image must hold what it installs or logs in to",
            "note 5: `ray` is left out: the operator makes the cluster and removes it",
        ],
    ),
    "another script": (
        f"bash other.sh trainer.epochs=1\n{LAUNCH} a=1",
        ["missing 1: `bash other.sh` is not carried over; if it starts the training, convert it instead"],
    ),
    "a condition": (
        f'if [[ -n "$X" ]]; then\n  A=1\n  export B=2\nfi\n{LAUNCH} a=${{A:-1}}',
        [
            "missing 1: the `if` of lines 1 to 4 is not evaluated, and nothing of what it does is carried over: "
            "exports B, sets A, B"
        ],
    ),
    "a short condition": (
        f'[ -z "$X" ] && A=1\n[ -n "$Y" ] || exit 1\n{LAUNCH} a=1',
        [
            "note 1: the `condition (&&)` of line 1 is not evaluated: what it sets A to is not known",
            "note 1: left out, having no effect on the run: `[`",
            "note 2: the `condition (||)` of line 2 is not evaluated",
        ],
    ),
    "a function": (
        f"prepare() {{\n  cp a b\n}}\nfunction other {{ :; }}\n{LAUNCH} a=1",
        [
            "missing 1: the `function` of lines 1 to 3 is not evaluated, and nothing of what it does is carried over: "
            "runs `cp`",
            "note 4: the `function` of line 4 is not evaluated",
        ],
    ),
    "a block without an end": (
        f"{LAUNCH} a=1\nif true; then",
        [
            "missing 2: the `if` that begins here has no end",
            "note 2: the `if` of line 2 is not evaluated",
        ],
    ),
    "a second run": (
        f"{LAUNCH} a=1\n{LAUNCH} a=2",
        ["missing 2: a second training program is not converted; convert it on its own"],
    ),
    "a run in a loop": (
        f"for SEED in 1 2; do\n  {LAUNCH} trainer.seed=$SEED\ndone",
        [
            "note 1: the `for` of lines 1 to 3 is not evaluated: what it sets SEED to is not known",
            "check 2: the training program runs within the `for` of lines 1 to 3",
        ],
    ),
    "a comment that ends the command": (
        f"{LAUNCH} a=1 \\\n  # b=2 \\\n  trainer.epochs=3 \\\n  trainer.seed=4",
        [
            "missing 3: what stands from here on is no part of the command, so SkyRL never got it: a comment, or "
            "blanks behind a backslash, end it in line 2; take them away to carry it over"
        ],
    ),
    "blanks behind a backslash": (
        f"{LAUNCH} a=1 \\ \n  trainer.epochs=3",
        [
            "missing 2: what stands from here on is no part of the command, so SkyRL never got it: a comment, or "
            "blanks behind a backslash, end it in line 1; take them away to carry it over"
        ],
    ),
    "a backslash that is not there": (
        f"{LAUNCH} a=1\n  trainer.epochs=3",
        [
            "missing 2: what stands from here on is no part of the command, so SkyRL never got it: no backslash stands "
            "at the end of the line before; add one to carry it over"
        ],
    ),
    "what starts the program": (
        f"srun uv run --extra fsdp --with foo --env-file x.env -m {MAIN} a=1",
        [
            "note 1: `srun` is left out: the operator starts the pods",
            "check 1: the image must hold the extra 'fsdp'",
            "check 1: the image must hold the package 'foo'",
            "missing 1: the variables in x.env are not known here; add them to runtime.env",
        ],
    ),
    "where the output goes": (
        f"{LAUNCH} a=1 > run.log 2>&1",
        ["note 1: the output is not written to run.log: `kubectl logs` has that of the pods"],
    ),
    "the script's arguments": (
        f'{LAUNCH} a=1 "$@"',
        ['note 1: the script\'s own arguments ("$@") are empty here; put any into spec.overrides'],
    ),
    "what is unset": (
        f"unset RAY_RUNTIME_ENV_HOOK\n{LAUNCH} a=1",
        ["note 1: unset RAY_RUNTIME_ENV_HOOK: pods get only the variables that the job gives them"],
    ),
}


@pytest.mark.parametrize("case", TOLD)
def test_whatever_is_not_carried_over_is_told_with_its_line(case: str) -> None:
    script, expected = TOLD[case]
    _, report = read(script)
    assert [f"{note.level} {note.line}: {note.text}" for note in report.in_order()] == expected


def test_the_program_gets_exports_prefixes_and_the_variables_of_a_ray_job() -> None:
    reading, _ = read(
        "export A=1\nB=2\nexport B C\nD=4\nexport HF_TOKEN=abc\nset -a\nE=5\nset +a\n"
        f'F=6 ray job submit --runtime-env-json=\'{{"env_vars": {{"G": "7"}}}}\' -- env H=8 python -m {MAIN} a=1\n'
        "export TOO_LATE=9"
    )
    known = {setting.name: setting.value for setting in reading.launch.environment}
    assert known == {"A": "1", "B": "2", "C": None, "HF_TOKEN": None, "E": "5", "F": "6", "G": "7", "H": "8"}


def test_a_secret_that_a_script_asks_for_is_one_that_the_program_gets() -> None:
    reading, _ = read(f': "${{WANDB_API_KEY:?export it}}" "${{OTHER:=1}}"\n{LAUNCH} a=1')
    assert [setting.name for setting in reading.launch.environment] == ["WANDB_API_KEY"]


def test_slurm_directives_are_kept_with_their_lines() -> None:
    reading, _ = read(
        f"#!/bin/bash\n#SBATCH --job-name=x -N 2\n#SBATCH --time 1:00:00 # long\n#SBATCH --exclusive\n{LAUNCH} a=1"
    )
    assert reading.directives == {
        "job-name": ("x", 2),
        "N": ("2", 2),
        "time": ("1:00:00", 3),
        "exclusive": ("", 4),
    }


def test_windows_line_ends_are_line_ends() -> None:
    assert arguments(f"A=1\r\n{LAUNCH} a=$A \\\r\n  b=2\r\n") == ["a=1", "b=2"]


def test_values_cannot_grow_without_bounds() -> None:
    script = "A=xxxxxxxx\n" + "A=$A$A\n" * 40 + f"{LAUNCH} a=$A"
    assert "a value of more than 65536 characters comes out of it" in arguments(script)[0]
    array = "A=(x x)\n" + 'A=("${A[@]}" "${A[@]}")\n' * 40 + f'{LAUNCH} a "${{A[@]}}"'
    assert "more than 4096 arguments come out of it" in arguments(array)[1]


@settings(deadline=None)
@given(left=st.integers(-50, 50), right=st.integers(-50, 50), sign=st.sampled_from(list("+-*/%")))
def test_arithmetic_is_bashs(left: int, right: int, sign: str) -> None:
    if right == 0 and sign in "/%":
        with pytest.raises(UnresolvedError):
            evaluate(f"{left} {sign} ({right})", Variables())
        return
    quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1) if right else 0
    expected = {"+": left + right, "-": left - right, "*": left * right, "/": quotient, "%": left - quotient * right}
    assert evaluate(f"{left} {sign} ({right})", Variables()) == expected[sign]


@settings(deadline=None)
@given(text=st.text(alphabet="ab=$\"'(){}[]\\\n #;&|<>-:?+@*!1`", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    report = Report()
    try:
        reading = read_script(f"{LAUNCH} trainer.epochs=1\n{text}", {}, report)
    except ScriptError:
        return
    assert reading.launch.arguments[0].text.startswith("trainer.epochs=1")
    assert all(note.line is None or 1 <= note.line <= text.count("\n") + 2 for note in report.in_order())


def test_a_list_of_words_is_read_as_a_shell_reads_it() -> None:
    words = read_words("trainer.epochs=1 \\\n  data.train_data=\"['/a']\"  # here\ntrainer.seed=$S", {"S": "7"})
    assert words == [
        Argument(1, "trainer.epochs=1"),
        Argument(2, "data.train_data=['/a']"),
        Argument(3, "trainer.seed=7"),
    ]
    assert read_words("trainer.run_name='x", {}) == []
