"""The shape of the package, read from its source: typed public names, and imports that only ever point down.

One room at a time: ``pytest tests/test_surface.py -k "prepare"``.
"""

import ast
import functools
from pathlib import Path

import pytest

import dino_nb

PACKAGE = Path(dino_nb.__file__).parent
# from the lowest room to the highest: a module imports from its own room and from lower ones
ROOMS = [
    *("ground", "ops", "models", "data", "checkpoints", "prepare"),
    *("inference", "evaluation", "training", "viz", "colab", "cli", "top"),
]
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room_of(module):
    """The room of ``dino_nb.x.y``."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return "top"
    return parts[1] if (PACKAGE / parts[1]).is_dir() else "ground"


def modules_of(room):
    return [module for module in MODULES if room_of(module) == room]


@functools.cache
def parse(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imported(node, module):
    """The modules of this package that an import statement of ``module`` names."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names if alias.name in MODULES}
    if not isinstance(node, ast.ImportFrom):
        return set()
    source = node.module or ""
    if node.level:
        parts = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
        source = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
    if source.partition(".")[0] != "dino_nb":
        return set()
    submodules = {f"{source}.{alias.name}" for alias in node.names}
    return {m for m in submodules if m in MODULES} | ({source} if submodules - MODULES.keys() else set())


def imports(module):
    """(line, imported module, whether inside a function) of each import from this package."""
    inner = {
        id(node)
        for function in ast.walk(parse(module))
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(parse(module)):
        for name in imported(node, module):
            yield node.lineno, name, id(node) in inner


def test_rooms_are_all_placed():
    assert {room_of(module) for module in MODULES} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_have_types(room):
    assert [line for module in modules_of(room) for line in untyped(module)] == []


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room):
    """The public names at the top come from everywhere; in a type-checking block they are no imports."""
    wrong = [
        f"{module}:{line} imports {name}"
        for module in modules_of(room)
        for line, name, _ in imports(module)
        if room != "top" and ROOMS.index(room_of(name)) > ROOMS.index(room)
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ROOMS)
def test_imports_of_this_package_are_not_inside_functions(room):
    wrong = [
        f"{module}:{line} imports {name}"
        for module in modules_of(room)
        for line, name, inside in imports(module)
        if inside
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ROOMS)
def test_imports_make_no_circle(room):
    edges = {module: {name for _, name, _ in imports(module) if name != "dino_nb"} for module in MODULES}
    circles = [f"{module} reaches itself" for module in modules_of(room) if module in reached(module, edges)]
    assert circles == []


def reached(start, edges):
    """Every module that ``start`` imports, directly or through others."""
    seen, todo = set(), list(edges[start])
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += edges[module]
    return seen


def untyped(module):
    """``module:line name lacks ...`` for each public function, method or dataclass field without its types."""
    for node in parse(module).body:
        if isinstance(node, ast.FunctionDef) and is_public(node.name):
            yield from lacks(module, node, node.name)
        elif isinstance(node, ast.ClassDef) and is_public(node.name):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and (
                    is_public(item.name) or item.name in ("__init__", "__call__")
                ):
                    yield from lacks(module, item, f"{node.name}.{item.name}", method=not is_static(item))
                elif isinstance(item, ast.Assign) and is_dataclass(node):
                    names = ", ".join(ast.unparse(target) for target in item.targets)
                    if is_public(names):
                        yield f"{module}:{item.lineno} field {node.name}.{names} lacks a type"


def lacks(module, function, name, method=False):
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args][1 if method else 0 :]
    every = [*named, *arguments.kwonlyargs, *(a for a in (arguments.vararg, arguments.kwarg) if a)]
    without = [a.arg for a in every if a.annotation is None]
    if function.returns is None and function.name != "__init__":
        without.append("return")
    if without:
        yield f"{module}:{function.lineno} {name} lacks types of {', '.join(without)}"


def is_public(name):
    return not name.startswith("_")


def is_static(function):
    return any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list)


def is_dataclass(node):
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
