import sys

from nnsparse_stream.kernels.backends import gpu_backend
from nnsparse_stream.pipelines import cli, doctor


def test_the_doctor_writes_to_and_reads_from_a_url(tmp_path, capsys):
    assert cli.main(["doctor", str(tmp_path / "new"), "memory://doctor"]) == 0
    text = capsys.readouterr().out
    assert text.count("written to and read back") == 2
    assert "a test pipeline ran" in text
    assert "torch" in text
    assert "kernels for cuda: triton " in text or "kernels for cuda: torch operations" in text
    assert not list((tmp_path / "new").iterdir())


def test_it_says_why_triton_does_not_serve(monkeypatch):
    monkeypatch.setitem(sys.modules, "nnsparse_stream.kernels.gpu.backend", None)
    gpu_backend.cache_clear()
    try:
        told = doctor._kernels()
    finally:
        gpu_backend.cache_clear()
    assert "triton cannot be imported (import of nnsparse_stream.kernels.gpu.backend halted" in told


def test_a_url_that_is_not_usable_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["doctor", str(tmp_path / "file")]) == 2
    captured = capsys.readouterr()
    assert "not usable" in captured.out
    assert str(tmp_path / "file") in captured.err
