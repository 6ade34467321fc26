"""Which folders hold models, and what is said of the others."""

from pathlib import Path

import pytest

from app.repository.model_folder import find_model_folders


def test_model_in_a_folder_of_another_name_is_logged_once_however_often_it_is_met(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("resnet18/1.0", "lesion-classification/1.0"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model.toml").write_text("")
    for _ in range(3):
        assert [each.label for each in find_model_folders(tmp_path)] == ["lesion-classification/1.0"]
    [record] = caplog.records
    assert f"{tmp_path / 'resnet18/1.0'} is passed over: a model's folder is NAME/VERSION" in record.getMessage()
