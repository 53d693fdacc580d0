import errno

import pytest

from dualtoken.errors import OutputError
from dualtoken.training.logs import Logs

ROW = {"epoch": 1, "step": 3, "train_loss": 0.5, "val_top1": 0.25}


def test_rows_are_kept_as_a_table_and_as_points(tmp_path):
    with Logs(tmp_path, [], enabled=True) as logs:
        logs.add(ROW)
        logs.add(ROW | {"epoch": 2, "step": 6})
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,train_loss,val_top1\n1,3,0.5,0.25\n2,6,0.5,0.25\n"
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert content.count(b"train_loss") == content.count(b"val_top1") == 2


def test_a_full_disk_is_told_at_once_and_in_one_sentence(tmp_path, capfd):
    with pytest.raises(OutputError, match="no space is left"), Logs(tmp_path, [], enabled=True) as logs:

        def full(_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        logs.writer._py_recordio_writer.write = full
        logs.add(ROW)
    assert "Traceback" not in capfd.readouterr().err


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(OutputError, match="a file is there, but a folder is needed"), Logs(tmp_path, [], enabled=True):
        pass
