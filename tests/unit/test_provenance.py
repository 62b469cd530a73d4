from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.provenance import hardware, integrity
from harness.provenance.integrity import changed_files, code_loaders, commit_of, mounted_files
from harness.provenance.record import folder_of, resolved_config, revision_of, sampling_defaults, weights_hash
from harness.text.redaction import without_secrets

# Files of the engine, and those that options name


def package(folder: Path, **files: str) -> Path:
    """An installed wheel with these files, as pip leaves it."""
    record = folder / "engine_cpu-1.0.dist-info" / "RECORD"
    record.parent.mkdir(parents=True)
    (record.parent / "top_level.txt").write_text("engine\n")
    lines = []
    for name, text in files.items():
        path = folder / "engine" / name.replace("_py", ".py").replace("_so", ".so")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"engine/{path.name},sha256={digest},{len(text)}")
    record.write_text("\n".join([*lines, "engine_cpu-1.0.dist-info/RECORD,,"]) + "\n")
    return folder / "engine"


def test_an_engine_as_it_was_published_has_no_changed_files(tmp_path: Path) -> None:
    assert changed_files(str(package(tmp_path, a_py="x = 1\n", b_so="library"))) == ()


def test_a_file_that_was_mounted_over_is_found_with_its_hash(tmp_path: Path) -> None:
    folder = package(tmp_path, a_py="x = 1\n", b_py="y = 1\n", c_so="library", d_py="")
    (folder / "a.py").write_text("x = 2\n")
    (folder / "c.so").write_text("a longer library")
    (folder / "d.py").unlink()
    assert (
        dict(changed_files(str(folder)))
        == {  # type: ignore[arg-type]
            "engine/a.py": hashlib.sha256(b"x = 2\n").hexdigest()[:16],
            "engine/c.so": hashlib.sha256(b"a longer library").hexdigest()[:16],
            "engine/d.py": "missing",
        }
    )


def test_of_an_engine_without_a_record_nothing_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    assert changed_files(str(tmp_path / "engine")) == "unverified"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("__commit_id__ = commit_id = 'g0123abcd'\n", "0123abcd"),
        ("__version__ = version = '0.1.dev1+gdeadbee.d20260101'\n", "deadbee"),
        ("__version__ = version = '0.32.0'\n__commit_id__ = commit_id = None\n", "unverified"),
    ],
)
def test_the_commit_of_an_engine_is_what_its_version_file_says(
    tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "_version.py").write_text(text)
    assert commit_of(str(tmp_path)) == expected


def test_every_file_that_an_option_names_is_hashed(tmp_path: Path) -> None:
    patch, folder = tmp_path / "patch.py", tmp_path / "plugins"
    patch.write_text("one")
    folder.mkdir()
    (folder / "inner.py").write_text("two")
    args = {"chat_template": str(patch), "max_model_len": 2048, "kv": json.dumps({"path": str(patch)})}
    env = {"PYTHONPATH": f"{folder}:/nowhere/at/all"}
    found = mounted_files(args, env)
    assert found["patch.py"] == hashlib.sha256(b"one").hexdigest()[:16]
    assert set(found) == {"patch.py", "plugins"}
    (folder / "inner.py").write_text("three")
    assert mounted_files(args, env)["plugins"] != found["plugins"]
    assert str(tmp_path) not in json.dumps(found)


def test_a_folder_of_thousands_of_files_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "_MOST_FILES", 2)
    for i in range(3):
        (tmp_path / f"{i}").write_text("")
    assert mounted_files({"a": str(tmp_path)}) == {tmp_path.name: "unverified"}


def test_variables_that_put_code_before_the_engine_are_named() -> None:
    assert code_loaders({"PYTHONPATH": "/x", "LD_PRELOAD": "", "HOME": "/root"}) == ["PYTHONPATH"]


# The server's own words


def log_with(tmp_path: Path, line: str) -> Path:
    log = tmp_path / "server.log"
    log.write_text(f"INFO a line\n{line}\nINFO another\n")
    return log


def test_the_model_s_sampling_defaults_are_those_that_the_server_logs(tmp_path: Path) -> None:
    log = log_with(
        tmp_path,
        "WARNING Default vLLM sampling parameters have been overridden by the model's "
        "`generation_config.json`: "
        "`{'temperature': 0.6, 'top_k': 20}`. If this is not intended, please relaunch",
    )
    assert sampling_defaults(log) == {"temperature": 0.6, "top_k": 20}
    assert sampling_defaults(log_with(tmp_path, "nothing of that kind")) == {}
    assert sampling_defaults(None) == "unverified"


def test_a_configuration_that_is_not_logged_is_unverified(tmp_path: Path) -> None:
    assert resolved_config(log_with(tmp_path, "nothing")) == "unverified"
    assert resolved_config(tmp_path / "none.log") == "unverified"


# A model of the hub


def test_a_hub_id_is_looked_up_in_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("DRAFTGATE_CACHE", str(tmp_path / "draftgate"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "models--org--name"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")
    assert revision_of("org/name", None) == commit
    assert weights_hash(folder_of("org/name", None)) != "unverified"
    assert revision_of("org/other", None) == "unverified"
    assert revision_of("org/other", "v1") == "v1"
    assert folder_of("org/other", None) is None


def test_weights_in_another_format_are_hashed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAFTGATE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"weights")
    once = weights_hash(str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(b"others!")
    assert "unverified" not in (once, weights_hash(str(tmp_path)))
    assert once != weights_hash(str(tmp_path))


# What is never written


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"HF_TOKEN": "abc", "VLLM_USE_V1": "1"}, {"HF_TOKEN": "***", "VLLM_USE_V1": "1"}),
        ("pytest --api-key=sesame -k ngram", "pytest --api-key=*** -k ngram"),
        ("curl -H 'Authorization: Bearer abcdefgh12'", "curl -H 'Authorization: ***'"),
        ("hf_abcdefghijklmnop", "***"),
        (["sk-abcdefghijklmnop", 3], ["***", 3]),
        ("http://me:word@host/v1", "http://***@host/v1"),
        ("a task-force of 12 tokens", "a task-force of 12 tokens"),
        ({"max_num_batched_tokens": 2048}, {"max_num_batched_tokens": 2048}),
    ],
)
def test_keys_tokens_and_passwords_are_left_out(value: Any, expected: Any) -> None:
    assert without_secrets(value) == expected


def test_clocks_and_packages_are_told() -> None:
    assert set(hardware.clocks()) == {"cpu_mhz", "cpu_governor", "gpus"}
    assert hardware.packages_of(None)["pytest"] == pytest.__version__
    assert hardware.packages_of(None) == hardware.packages_of(sys.executable)
    assert hardware.packages_of("/nowhere/python") == {}


def test_of_a_package_that_is_there_twice_the_one_is_told_that_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "pytest-99.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest\nVersion: 99.0\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # before the interpreter's own folder
    hardware.packages_of.cache_clear()

    found = hardware.packages_of(None)

    hardware.packages_of.cache_clear()
    assert found["pytest"] == "99.0"
