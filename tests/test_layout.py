"""The rooms of src: imports point up the list of rooms, in no circle; functions are short; DEVELOPERS.md lists the files."""

import ast
import os

import pytest

import layout

KNOWN = layout.modules()
LONGEST = 45        # lines of a function, its docstring included
FILES = [*KNOWN.values(), *(os.path.join(layout.ROOT, f'{name}.py') for name in layout.SCRIPTS)]


@pytest.mark.parametrize('module', KNOWN)
def test_imports_point_to_the_same_room_or_up_and_not_to_a_script(module):
    rank = layout.ROOMS.index(layout.room_of(module))
    for imported in layout.imports(module, KNOWN):
        assert imported not in layout.SCRIPTS
        assert layout.ROOMS.index(layout.room_of(imported)) <= rank, imported


def test_no_module_imports_itself_through_others():
    done, path = set(), []

    def visit(module):
        assert module not in path, ' -> '.join([*path[path.index(module):], module])
        if module not in done:
            path.append(module)
            for imported in layout.imports(module, KNOWN):
                visit(imported)
            done.add(path.pop())

    for module in KNOWN:
        visit(module)


def test_the_rooms_are_those_on_disk():
    assert {module for module in KNOWN if layout.first_line(KNOWN[module]) and '.' not in module} == {
        *layout.ROOMS, *layout.FRONT}
    tests = os.path.join(layout.ROOT, 'tests')
    assert {name for name in os.listdir(tests) if os.path.isdir(os.path.join(tests, name)) and name != '__pycache__'} <= set(
        layout.ROOMS)


@pytest.mark.parametrize('path', FILES, ids=lambda path: os.path.relpath(path, layout.ROOT))
def test_functions_fit_in_the_eye(path):
    for node in ast.walk(layout.parse(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < LONGEST, node.name


def test_imports_are_found_wherever_they_stand(tmp_path):
    """The test above would pass if none were found."""
    (tmp_path / 'a.py').write_text('import b.c\n\ndef f():\n    from b import d, name\n    from e import g\n    import train\n')
    known = {'a': str(tmp_path / 'a.py'), 'b': '', 'b.c': '', 'b.d': '', 'e': ''}
    assert layout.imports('a', known) == {'b.c', 'b.d', 'e', 'train'}
    assert len(layout.imports('training.loop', KNOWN)) > 5


def test_developers_see_the_layout_as_it_is():
    with open(os.path.join(layout.ROOT, 'DEVELOPERS.md'), encoding='utf-8') as file:
        assert layout.BEGIN + layout.layout() + layout.END in file.read(), 'run: python tests/layout.py'
