import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_first_two_bash_blocks_are_one_line_each_and_name_scripts_that_exist():
    for block in blocks("bash")[:2]:
        (line,) = block.strip().splitlines()
        assert (ROOT / line.split()[1]).is_file()


def test_ci_calls_the_readme_s_test_line():
    assert blocks("bash")[1].strip() in (ROOT / ".ci" / "run").read_text()


def test_the_snippet_on_composing_runs_as_it_stands(tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("python")
    scope: dict = {}
    exec(snippet, scope)
    assert scope["summary"]["n_trajectories"] > 5
    assert (tmp_path / "my-spans" / "manifest.json").exists()


def test_files_that_the_readme_links_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_formats_named_in_the_readme_are_those_read():
    from sadstream.formats import NAMES

    table = set(re.findall(r"^\| `([a-z-]+)` \|", README, re.M))
    assert table == set(NAMES)
