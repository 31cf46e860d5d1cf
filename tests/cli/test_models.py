"""`kvpress-video models`: features and methods of a model."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from unknown_families import model_of

from kvpress_video.cli import main, models


def test_a_model_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert "adapter QwenVL" in printed
    assert "standby" in printed
    assert "methods not supported: router-similarity\n" in printed
    assert "no router-similarity: Qwen2_5_VLForConditionalGeneration is dense" in printed


@pytest.mark.skipif(transformers.__version__.startswith("4."), reason="families of transformers 5")
@pytest.mark.parametrize(
    ("model_type", "code", "said"), [("llava", 0, "adapter general"), ("git", 2, "is not supported")]
)
def test_the_exit_code_says_whether_it_is_supported(
    model_type: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: Any = (model_of(model_type), None)
    monkeypatch.setattr(models, "load_model", lambda options: loaded)
    assert main(["models", "somewhere"]) == code
    assert said in capsys.readouterr().out
