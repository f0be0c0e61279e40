import json
import os
import re

import pytest

from keras_senti.data import cache_folder
from keras_senti.errors import UserError
from keras_senti.storage import run_folder
from keras_senti.storage.environment import describe_environment
from keras_senti.storage.files import WriteError, compute_sha256, read_json, replace, write_json, write_text


def make_run(folder, status="finished"):
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"status": status}))
    return folder


# A new run folder


def test_a_run_goes_to_logs_name_and_utc_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = run_folder.create_run_dir("tweets")
    assert re.fullmatch(r"logs/tweets/\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", path.as_posix())
    assert path.is_dir()


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    class StoppedClock(run_folder.datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 31, 12, 0, 5, tzinfo=tz)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder.datetime, "datetime", StoppedClock)
    names = [run_folder.create_run_dir("x").name for _ in range(3)]
    assert names == ["2026-01-31T12-00-05Z", "2026-01-31T12-00-05Z-2", "2026-01-31T12-00-05Z-3"]


def test_run_dir_is_taken_exactly(tmp_path):
    path = run_folder.create_run_dir("tweets", str(tmp_path / "a" / "b"))
    assert path == tmp_path / "a" / "b"
    assert path.is_dir()


def test_an_empty_folder_is_accepted(tmp_path):
    assert run_folder.create_run_dir("tweets", str(tmp_path)) == tmp_path


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty; a run never writes over another. Name a new folder"):
        run_folder.create_run_dir("tweets", str(tmp_path))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("notes.txt", "mine")]


def test_a_file_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt is a file, expected a new folder"):
        run_folder.create_run_dir("tweets", str(file))
    assert file.read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run_dir: cannot make the folder .*below: Not a directory"):
        run_folder.create_run_dir("tweets", str(tmp_path / "file" / "below"))


# Writing and reading


def test_text_is_written_as_it_is(tmp_path):
    write_text(tmp_path / "a.txt", "naïve\r\n情感\n")
    assert (tmp_path / "a.txt").read_bytes() == "naïve\r\n情感\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: No space left on device"):
        write_text(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_write_into_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: No such file or directory"):
        write_text(tmp_path / "none" / "a.txt", "x")


def test_json_is_read_back_and_readable_by_people(tmp_path):
    write_json(tmp_path / "a.json", {"classes": ["好", "坏"]})
    assert "好" in (tmp_path / "a.json").read_text("utf-8")
    assert read_json(tmp_path / "a.json") == {"classes": ["好", "坏"]}


def test_a_json_file_that_is_missing_names_the_folder(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.json is missing: .* is not the folder of a finished run"):
        read_json(tmp_path / "metrics.json")


@pytest.mark.parametrize("content", [b'{"a": 1', b"", b"\xff\xfe"], ids=["cut off", "empty", "not UTF-8"])
def test_a_damaged_json_file_is_named(tmp_path, content):
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.json cannot be read: "):
        read_json(tmp_path / "metrics.json")


def test_the_manifest_keeps_earlier_entries(tmp_path):
    run_folder.update_manifest(tmp_path, status="running", seed=3)
    run_folder.update_manifest(tmp_path, status="finished")
    assert read_json(tmp_path / "manifest.json") == {"status": "finished", "seed": 3}


def test_the_environment_names_command_and_versions():
    environment = describe_environment()
    assert {"python", "numpy", "keras"} <= set(environment["versions"])
    assert isinstance(environment["command"], list)
    json.dumps(environment)


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")  # the first test vector of FIPS 180-2
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert compute_sha256(tmp_path / "a") == expected


def test_a_folder_comes_to_its_name_when_it_is_whole(tmp_path):
    with replace(tmp_path / "model") as temporary:
        (temporary / "assets").mkdir(parents=True)
        (temporary / "assets" / "a.txt").write_text("a")
        assert not (tmp_path / "model").exists()
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.txt")] == ["model/assets/a.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    with replace(tmp_path / "model") as temporary:
        temporary.mkdir()
        files = [temporary / name for name in "ab"]
        for file in files:
            file.write_text("x")
    assert sorted(synced) == sorted((tmp_path / "model" / name).stat().st_ino for name in "ab")


def test_a_cache_is_cleared_of_half_written_files_only_while_nobody_else_uses_it(tmp_path):
    (tmp_path / "writing-1").mkdir()
    (tmp_path / "ids-1").mkdir()
    with cache_folder.share_cache(tmp_path):
        assert not (tmp_path / "writing-1").exists() and (tmp_path / "ids-1").exists()
        (tmp_path / "writing-2").mkdir()
        with cache_folder.share_cache(tmp_path):
            assert (tmp_path / "writing-2").exists()
    with cache_folder.share_cache(tmp_path):
        assert not (tmp_path / "writing-2").exists()


def test_a_folder_of_the_users_in_the_cache_stays_whatever_its_name(tmp_path):
    (tmp_path / "writing-exercises").mkdir()
    (tmp_path / "writing-exercises" / "mine.txt").touch()
    (tmp_path / "writing-abcdefgh" / "ids-0123456789abcdef").mkdir(parents=True)
    with cache_folder.share_cache(tmp_path):
        assert (tmp_path / "writing-exercises" / "mine.txt").exists()
        assert not (tmp_path / "writing-abcdefgh").exists()


def test_a_file_that_cannot_be_read_has_no_sha256(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: cannot be read: Is a directory"):
        compute_sha256(tmp_path)


# A finished run


def test_a_finished_run_is_accepted(tmp_path):
    assert run_folder.check_run_dir(str(make_run(tmp_path / "run"))) == tmp_path / "run"


def test_a_run_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none: no such folder\. Expected a run folder such as logs/"):
        run_folder.check_run_dir(tmp_path / "none")


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"not a run folder \(no manifest\.json\)\.$"):
        run_folder.check_run_dir(tmp_path)


def test_the_newest_run_below_is_suggested(tmp_path):
    make_run(tmp_path / "logs" / "tweets" / "2026-01-30T12-00-00Z")
    make_run(tmp_path / "logs" / "tweets" / "2026-01-31T12-00-00Z")
    with pytest.raises(UserError, match=r"not a run folder .*Did you mean .*2026-01-31T12-00-00Z\?"):
        run_folder.check_run_dir(tmp_path / "logs")


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_run_that_has_not_finished_is_refused(tmp_path, status):
    make_run(tmp_path / "run", status)
    with pytest.raises(UserError, match=rf"this run is '{status}', not 'finished'"):
        run_folder.check_run_dir(tmp_path / "run")


def test_a_manifest_that_holds_no_object_is_refused(tmp_path):

    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match=r"manifest\.json"):
        run_folder.check_run_dir(tmp_path)


# One process a folder


def test_the_lock_keeps_others_out_and_ends_with_its_holder(tmp_path):
    with run_folder.lock_run_dir(tmp_path):
        with pytest.raises(UserError, match="another process is running in this folder. Wait until it has ended"):
            with run_folder.lock_run_dir(tmp_path):
                pass
    with run_folder.lock_run_dir(tmp_path):
        pass


def test_a_folder_that_is_gone_cannot_be_locked(tmp_path):
    with pytest.raises(WriteError, match="cannot write .*gone.*: No such file or directory"):
        with run_folder.lock_run_dir(tmp_path / "gone"):
            pass


def test_what_a_killed_run_left_is_removed_and_the_rest_stays(tmp_path):
    for name in ("writing-saved_model", "saved_model", "encoder", "checkpoints"):
        (tmp_path / name).mkdir()
    for name in ("writing-a.txt", "metrics.json", "history.csv", "checkpoints/writing-b", "checkpoints/step-1.npz"):
        (tmp_path / name).write_text("")
    run_folder.remove_leftovers(tmp_path)
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
    assert left == ["checkpoints", "checkpoints/step-1.npz", "history.csv"]
