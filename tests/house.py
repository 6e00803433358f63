"""The structure of the source: which room may import which, and how large things are.

    python tests/house.py          # sizes, and what breaks the rules
    python -m tests.house ways     # files that run from a clip to a caption, and from a folder to the loss

`tests/test_house.py` holds the project to these rules.
"""

import ast
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("processing", "modeling_vidcap", "hub_card", "vidcap", "train_hf.py")
# From the bottom up: a room imports from itself and from rooms that stand before it.
ROOMS = (
    "processing.support",
    "processing",
    "processing.cache",
    "processing.clips",
    "modeling_vidcap",
    "modeling_vidcap.pretrained",
    "hub_card",
    "vidcap.base",
    "vidcap.light",
    "vidcap.adapters",
    "vidcap.inference",
    "vidcap.evaluation.scores",
    "vidcap.data",
    "vidcap.evaluation.controls",
    "vidcap.evaluation.report",
    "vidcap.evaluation",
    "vidcap.training",
    "vidcap.demo",
    "vidcap.commands",
    "vidcap",
    "train_hf",
)
# The room vidcap.base.
BASE = tuple(f"vidcap.{name}" for name in ("captioner", "files", "messages", "precision", "ranks", "versions"))
MAX_LINES_OF_FILE, MAX_FILES_OF_FOLDER, MAX_LINES_OF_FUNCTION = 400, 20, 60


def source_files() -> list[Path]:
    """Python files outside tests and benchmarks, that git knows."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", *TOPS]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return [ROOT / name for name in sorted(names) if name.endswith(".py") and (ROOT / name).is_file()]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in source_files()}


def room_of(module: str) -> str:
    """The innermost room of [`ROOMS`] that a module stands in; a package's `__init__` stands in its own."""
    if module in BASE:
        return "vidcap.base"
    room = module
    while room not in ROOMS:
        room = room.rpartition(".")[0]
    return room


def imports_of(module: str) -> set[str]:
    """Modules of this project that a module imports, anywhere in it, except for type checkers alone."""
    return {name for name in _imported_names(module, modules()[module]) if name in modules() and name != module}


def _imported_names(module: str, path: Path) -> set[str]:
    """Everything that a module imports, by its full name; for `from package import name` the submodule, if any."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in _run_time_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                found.add(submodule if submodule in modules() else base)
    return found


def _run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    for child in ast.iter_child_nodes(node):
        yield from _run_time_nodes(child)


def upward_imports() -> list[tuple[str, str]]:
    """Pairs (importer, imported) of which the second stands in a room above the first."""
    return [
        (module, imported)
        for module in modules()
        for imported in sorted(imports_of(module))
        if ROOMS.index(room_of(imported)) > ROOMS.index(room_of(module))
    ]


def missing_imports() -> list[tuple[str, str]]:
    """Pairs (importer, imported) of which the second is a module of this project that does not exist; mypy overlooks
    these."""
    found = []
    for module, path in modules().items():
        for name in _imported_names(module, path):
            if name.partition(".")[0] in {top.removesuffix(".py") for top in TOPS} and name not in modules():
                found.append((module, name))
    return found


def circles() -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    graph = {module: imports_of(module) for module in modules()}

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for following in graph[stack.pop()] - seen:
                seen.add(following)
                stack.append(following)
        return seen

    reach = {module: reachable(module) for module in graph}
    groups = {frozenset(o for o in reach[module] if module in reach[o]) for module in graph if module in reach[module]}
    return sorted(sorted(group) for group in groups)


def long_files() -> dict[str, int]:
    sizes = {str(path.relative_to(ROOT)): lines_of(path) for path in source_files()}
    return {name: size for name, size in sizes.items() if size > MAX_LINES_OF_FILE}


def crowded_folders() -> dict[str, int]:
    counts = Counter(str(path.parent.relative_to(ROOT)) for path in source_files())
    return {name: count for name, count in counts.items() if count > MAX_FILES_OF_FOLDER}


def long_functions() -> dict[str, int]:
    """Functions over the limit, docstring left out; those that only declare options (`add_...`) do not count."""
    found = {}
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("add_") and node.name != "build_parser":
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                length = (node.end_lineno or 0) - first.lineno + 1
                if length > MAX_LINES_OF_FUNCTION:
                    found[f"{path.relative_to(ROOT)}: {node.name}"] = length
    return found


def bare_any_parameters() -> list[str]:
    """Parameters whose type is `Any` and nothing else."""
    found = []
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                parameters += [each for each in (node.args.vararg, node.args.kwarg) if each is not None]
                for parameter in parameters:
                    if isinstance(parameter.annotation, ast.Name) and parameter.annotation.id == "Any":
                        found.append(f"{path.relative_to(ROOT)}: {node.name}({parameter.arg})")
    return found


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def files_run_by(work: Callable[[], object]) -> list[str]:
    """Source files of which at least one function runs while `work` does, in the order of their first call."""
    names = {str(path) for path in source_files()}
    seen: dict[str, None] = {}

    def profile(frame, event: str, argument) -> None:
        if event == "call" and frame.f_code.co_filename in names:
            seen.setdefault(str(Path(frame.f_code.co_filename).relative_to(ROOT)))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return list(seen)


def ways() -> dict[str, list[str]]:
    """Files that run while a pipeline captions a clip by beam search, and while the clips of a folder become a loss.

    Models are tiny and have random weights; both are loaded before.
    """
    from transformers import pipeline

    from processing.cache.feature_cache import ClipCache
    from processing.clips.clip_dataset import ClipDataset
    from processing.clips.collator import VideoCaptionCollator
    from processing.clips.rows import load_clips
    from tests.tiny import tiny_model, tiny_processor
    from vidcap.demo.demo_data import generate_demo_data

    model, processor = tiny_model(), tiny_processor()

    def loss(folder: Path) -> None:
        clips = ClipDataset(load_clips(folder, "train"), ClipCache(folder / "cache", processor.video_processor))
        batch = VideoCaptionCollator(processor)([clips[index] for index in range(len(clips))])
        model(**batch).loss.backward()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "clips")
        generate_demo_data(folder, train=2, validation=0, test=0, size=32)
        clip = next(iter(sorted((folder / "train").glob("*.mp4"))))
        captioner = pipeline("video-captioning", model=model, processor=processor, device="cpu")
        return {
            "from a clip to a caption": files_run_by(lambda: captioner(str(clip), num_beams=2, max_new_tokens=4)),
            "from a folder to the loss": files_run_by(lambda: loss(folder)),
        }


def main() -> None:
    if sys.argv[1:] == ["ways"]:
        for way, files in ways().items():
            print(f"{way}: {len(files)} files", *files, sep="\n  ")
        return
    print(f"{sum(map(lines_of, source_files())):,} lines of source in {len(source_files())} files")
    print(f"{len(bare_any_parameters())} parameters of type Any")
    for title, found in (
        ("imports that run up", [f"{one} -> {other}" for one, other in upward_imports()]),
        ("imports of what does not exist", [f"{one} -> {other}" for one, other in missing_imports()]),
        ("circles of imports", [", ".join(group) for group in circles()]),
        (f"files over {MAX_LINES_OF_FILE} lines", [f"{name}: {size}" for name, size in long_files().items()]),
        (f"folders over {MAX_FILES_OF_FOLDER} files", [f"{name}: {size}" for name, size in crowded_folders().items()]),
        (
            f"functions over {MAX_LINES_OF_FUNCTION} lines",
            [f"{name}, {size}" for name, size in long_functions().items()],
        ),
    ):
        print(f"{title}: {len(found) or 'none'}")
        for line in found:
            print(f"  {line}")


if __name__ == "__main__":
    main()
