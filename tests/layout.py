"""The layout of the project, read from the files themselves: `python tests/layout.py` writes it into DEVELOPERS.md."""

import ast
import os
import re

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SRC = os.path.join(ROOT, 'src')
# In the order in which data flows. A file imports from its own room and from rooms above it.
ROOMS = ('command', 'vocabulary', 'corpus', 'network', 'storage', 'workers', 'sampling', 'training', 'evaluation', 'serving')
# Files at the front of src, whose names people know, and the room that each belongs to.
FRONT = {'runtime': 'command', 'encoder': 'vocabulary', 'load_dataset': 'corpus', 'model': 'network', 'sample': 'network',
         'accumulate': 'network', 'memory_saving_gradients': 'network', 'generator': 'sampling',
         'interactive_conditional_samples': 'sampling', 'generate_unconditional_samples': 'sampling'}
SCRIPTS = ('train', 'encode', 'download_model', 'create_model', 'evaluate', 'convert', 'serve')
BEGIN, END = '<!-- layout: written by tests/layout.py -->\n', '<!-- end of layout -->\n'


def modules() -> dict[str, str]:
    """Name -> path of every module of src: 'network.attention' -> …/src/network/attention.py."""
    found = {}
    for parent, directories, names in os.walk(SRC):
        directories[:] = sorted(name for name in directories if name != '__pycache__')
        for name in sorted(names):
            if name.endswith('.py'):
                path = os.path.join(parent, name)
                parts = os.path.relpath(path, SRC).removesuffix('.py').split(os.sep)
                found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


def parse(path: str) -> ast.Module:
    with open(path, encoding='utf-8') as file:
        return ast.parse(file.read())


def first_line(path: str) -> str:
    return ast.get_docstring(parse(path)).splitlines()[0]


def room_of(module: str) -> str:
    return module.split('.')[0] if module.split('.')[0] in ROOMS else FRONT[module]


def imports(module: str, known: dict[str, str]) -> set[str]:
    """The modules of the project that a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(parse(known[module])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f'{node.module}.{alias.name}' for alias in node.names} & known.keys()
            found |= submodules or {node.module}
    return found & (known.keys() | set(SCRIPTS))


def layout() -> str:
    """The layout as a text: scripts, then src by room, each file with the first line of its docstring."""
    lines = [f'{name + ".py":24}{first_line(os.path.join(ROOT, f"{name}.py"))}' for name in SCRIPTS]
    known = modules()
    lines += ['src/', *(f'  {name + ".py":36}{first_line(known[name])}' for name in FRONT)]
    for room in ROOMS:
        lines.append(f'  {room + "/":36}{first_line(known[room])}')
        lines += [f'    {module.split(".")[1] + ".py":34}{first_line(path)}' for module, path in known.items()
                  if module.startswith(f'{room}.')]
    return '\n'.join(['```text', *lines, '```', ''])


def main() -> None:
    path = os.path.join(ROOT, 'DEVELOPERS.md')
    with open(path, encoding='utf-8') as file:
        page = file.read()
    with open(path, 'w', encoding='utf-8') as file:
        file.write(re.sub(f'{BEGIN}.*{END}', lambda _: BEGIN + layout() + END, page, flags=re.DOTALL))


if __name__ == '__main__':
    main()
