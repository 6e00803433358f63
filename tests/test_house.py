"""The rules of docs/architecture.md: imports run one way, and nothing grows too large."""

from tests import house


def test_imports_run_one_way_and_in_no_circle() -> None:
    assert house.upward_imports() == []
    assert house.circles() == []
    assert house.missing_imports() == []


def test_no_file_folder_or_function_is_too_large() -> None:
    assert house.long_files() == {}
    assert house.crowded_folders() == {}
    assert house.long_functions() == {}


def test_only_exported_files_lie_beside_exported_files() -> None:
    """transformers copies what an exported file imports; of other folders it would copy nothing."""
    for room, others in {"modeling_vidcap": {"registration"}, "processing": set()}.items():
        files = {path.stem for path in house.source_files() if path.parent == house.ROOT / room}
        assert {name for name in files if not name.endswith("_vidcap")} - {"__init__"} == others
    for module, path in house.modules().items():
        if path.stem.endswith("_vidcap"):
            assert {each.rpartition(".")[0] for each in house.imports_of(module)} <= {module.rpartition(".")[0]}


def test_the_rules_find_what_breaks_them(tmp_path, monkeypatch) -> None:
    files = {
        "processing/a_vidcap.py": "from vidcap import cli\n",
        "processing/clips/b.py": "from .c import x\nfrom .gone import y\n",
        "processing/clips/c.py": "def x(y: Any):\n    from .b import z\n" + "    pass\n" * 400,
        "vidcap/cli.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(house, "ROOT", tmp_path)
    monkeypatch.setattr(house, "source_files", lambda: [tmp_path / name for name in sorted(files)])
    house.modules.cache_clear()
    try:
        assert house.upward_imports() == [("processing.a_vidcap", "vidcap.cli")]
        assert house.circles() == [["processing.clips.b", "processing.clips.c"]]
        assert house.missing_imports() == [("processing.clips.b", "processing.clips.gone")]
        assert house.long_files() == {"processing/clips/c.py": 402}
        assert house.long_functions() == {"processing/clips/c.py: x": 401}
        assert house.bare_any_parameters() == ["processing/clips/c.py: x(y)"]
    finally:
        house.modules.cache_clear()
