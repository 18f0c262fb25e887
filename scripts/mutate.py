"""Mutation testing: break a module in one place at a time and see whether its tests notice.

Nothing on disk is changed: each mutant is a forked child that is given the module's changed source at import and runs
the module's tests, stopping at the first failure. What is forked has imported libraries only, so no thread of theirs
is lost on the way. Tests that start another Python do not see the mutant.

    python scripts/mutate.py score tokens
    python scripts/mutate.py segment --share 0.4 --out mutants.txt
"""

import argparse
import ast
import difflib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "segment": ["tests/test_cut.py", "tests/test_segment.py"],
    "cut": ["tests/test_cut.py", "tests/test_segment.py"],
    "labels": ["tests/test_labels.py", "tests/test_cut.py", "tests/test_segment.py"],
    "utf8": ["tests/test_utf8.py", "tests/test_labels.py", "tests/test_cut.py", "tests/test_segment.py"],
    "score": ["tests/test_score.py"],
    "tokens": ["tests/test_tokens.py"],
    "losses": ["tests/test_losses.py"],
}
LIBRARIES = ("numpy", "pyarrow", "polars", "polars.testing", "pytest", "hypothesis.strategies", "torch", "transformers")

_COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
# Calls that hand on the shape of what they are called on: `frame.f(...)` may become `frame`.
_DROPPED = {
    *("over", "fill_null", "shift", "cast", "sort", "unique", "filter", "drop", "reverse", "cum_sum", "strip_chars"),
    *("strip_chars_start", "strip_chars_end", "clamp_min", "clamp", "float", "exp", "log", "detach", "cumsum", "abs"),
    *("astype", "copy", "rle_id", "max", "min", "any", "removeprefix", "removesuffix", "lower", "get", "forward_fill"),
    *("backward_fill", "head", "with_columns", "contiguous", "long", "scatter", "requires_grad_", "slice"),
}


class Place(NamedTuple):
    """Where the source can be changed: characters `start` to `stop` of it become `text`."""

    line: int
    start: int
    stop: int
    text: str


class _Finder(ast.NodeVisitor):
    """Collects the places of a module. What only tells people something (docstrings, annotations, messages of errors)
    is passed over, and so is `zip(..., strict=...)`, which never matters where it is right."""

    def __init__(self, source: str) -> None:
        self.places: list[Place] = []
        self._source = source
        self._starts = [0]
        for line in source.split("\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def _offset(self, line: int, column: int) -> int:
        """Character offset from ast's line and UTF-8 column."""
        begin = self._starts[line - 1]
        text = self._source[begin : self._starts[line] - 1]
        return begin + len(text.encode()[:column].decode())

    def _replace(self, node: ast.expr | ast.stmt, text: str) -> None:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = self._offset(node.lineno, node.col_offset)
        stop = self._offset(node.end_lineno, node.end_col_offset)
        if self._source[start:stop] != text:
            self.places.append(Place(node.lineno, start, stop, text))

    def _with(self, node: ast.expr, **changed: object) -> None:
        fields = {name: getattr(node, name) for name in node._fields}
        self._replace(node, f"({ast.unparse(type(node)(**{**fields, **changed}))})")

    # Passed over.

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass")

    def visit_Import(self, node: ast.Import) -> None:
        """Nothing to change."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Nothing to change."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in [*node.defaults, *(d for d in node.kw_defaults if d is not None)]:
            self.visit(default)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.visit(node.args)
        self._body(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._body(node.body)

    def visit_Module(self, node: ast.Module) -> None:
        self._body(node.body)

    def _body(self, body: list[ast.stmt]) -> None:
        first = body[0] if body else None
        is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        for statement in body[is_docstring:]:
            self.visit(statement)

    # Changed.

    def visit_Compare(self, node: ast.Compare) -> None:
        for place, operator in enumerate(node.ops):
            ops = [*node.ops[:place], _COMPARE[type(operator)](), *node.ops[place + 1 :]]
            self._with(node, ops=ops)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in _ARITHMETIC:
            self._with(node, op=_ARITHMETIC[type(node.op)]())
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in _ARITHMETIC:
            changed = ast.AugAssign(target=node.target, op=_ARITHMETIC[type(node.op)](), value=node.value)
            self._replace(node, ast.unparse(changed))
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            # A number. -1 often names the last of two axes, which 1 does as well.
            self._replace(node, f"({-node.operand.value - 1!r})")
            self._replace(node, f"({-node.operand.value + 1!r})")
            return
        self._replace(node, f"({ast.unparse(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace(node, repr(not value))
        elif isinstance(value, int | float):
            self._replace(node, f"({value + 1!r})")
            if value >= 1:
                self._replace(node, f"({value - 1!r})")
        elif isinstance(value, str):
            self._replace(node, repr("XX" + value) if value else "'XX'")

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                self.visit(value.value)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr in _DROPPED:
            value = node.func.value
            assert value.end_lineno is not None and value.end_col_offset is not None
            start = self._offset(node.lineno, node.col_offset)
            self._replace(node, self._source[start : self._offset(value.end_lineno, value.end_col_offset)])
        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg != "strict":
                self.visit(keyword.value)

    def visit_If(self, node: ast.If) -> None:
        self._forced(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._forced(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._replace(node.test, "False")
        self.generic_visit(node)

    def _forced(self, test: ast.expr) -> None:
        self._replace(test, "True")
        self._replace(test, "False")

    def visit_Expr(self, node: ast.Expr) -> None:
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "continue")


def places(source: str) -> list[Place]:
    """Every place of a module's source, each of which gives one mutant that still compiles."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    return [place for place in dict.fromkeys(finder.places) if _compiles(changed(source, place))]


def changed(source: str, place: Place) -> str:
    """The source with one place changed."""
    return source[: place.start] + place.text + source[place.stop :]


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


class _Given(importlib.abc.Loader, importlib.abc.MetaPathFinder):
    """Gives one module a source of our choosing."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name, self._path, self._source = name, path, source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(self._path)
        exec(compile(self._source, str(self._path), "exec"), module.__dict__)


def run_tests(name: str, source: str, tests: list[str], timeout: float) -> str:
    """What the tests make of a source of `sadstream.NAME`: `survived`, `killed` or `timeout`."""
    child = os.fork()
    if child == 0:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        code = 3
        try:
            import pytest

            sys.meta_path.insert(0, _Given(f"sadstream.{name}", ROOT / "sadstream" / f"{name}.py", source))
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))
        finally:
            os._exit(code)
    return _outcome(child, timeout)


def _outcome(child: int, timeout: float) -> str:
    stop = time.monotonic() + timeout
    while time.monotonic() < stop:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _diff(source: str, place: Place, path: str) -> str:
    lines = difflib.unified_diff(source.splitlines(), changed(source, place).splitlines(), path, path, n=0, lineterm="")
    return "\n".join(line for line in lines if not re.match(r"---|\+\+\+", line))


def mutate(name: str, share: float, seed: int, timeout: float, report: Callable[[str], None]) -> Iterator[str]:
    """Run a share of a module's mutants; reports survivors as they are found, gives each mutant's outcome."""
    path = ROOT / "sadstream" / f"{name}.py"
    source = path.read_text(encoding="utf-8")
    begin = time.monotonic()
    if run_tests(name, source, TESTS[name], 10 * timeout) != "survived":
        raise SystemExit(f"{name}: its tests fail as it stands: {' '.join(TESTS[name])}")
    limit = max(timeout, 4 * (time.monotonic() - begin))
    found = places(source)
    chosen = random.Random(seed).sample(found, round(share * len(found)))
    report(f"# {name}: {len(chosen)} of {len(found)} mutants, {limit:.0f} s at most for each")
    for number, place in enumerate(sorted(chosen)):
        if sys.stderr.isatty():
            print(f"{name} {number} of {len(chosen)}", end="\r", file=sys.stderr, flush=True)
        outcome = run_tests(name, changed(source, place), TESTS[name], limit)
        if outcome == "survived":
            report(_diff(source, place, f"sadstream/{name}.py"))
        yield outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", choices=[[], *TESTS], help="default: all", metavar="MODULE")
    parser.add_argument("--share", type=float, default=1.0, help="of the mutants, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=60, help="seconds a mutant has at least")
    parser.add_argument("--out", type=Path, help="file for the survivors and the table; default: printed")
    options = parser.parse_args()
    # A failure is enough: nothing is gained by shrinking it.
    os.environ["SADSTREAM_HYPOTHESIS_PROFILE"] = "mutants"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(ROOT), str(ROOT / "schemas"), str(ROOT / "cli")]
    for library in LIBRARIES:
        importlib.import_module(library)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    table = []
    for name in options.modules or TESTS:
        outcomes = list(mutate(name, options.share, options.seed, options.timeout, report))
        n_killed = len(outcomes) - outcomes.count("survived")
        n_timeouts, share = outcomes.count("timeout"), n_killed / len(outcomes)
        table.append(f"| `{name}` | {len(outcomes)} | {n_killed} | {n_timeouts} | {share:.1%} |")
    report("\n| module | mutants | killed | of these by time | share killed |\n|---|---|---|---|---|")
    for row in table:
        report(row)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
