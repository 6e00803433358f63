"""The commands of `vidcap` as functions.

Options have the names and defaults of the command line, see `vidcap COMMAND --help`.

Guarantees: the checks and results of the commands; a wrong option is a `ValueError`. Limitations: warnings and
progress appear on the standard error, as with the commands.
"""

import argparse
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from .cli import build_parser
from .inference.subtitles import CaptionedClip


class _Parser(argparse.ArgumentParser):
    """A parser that raises a `ValueError` for wrong usage."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise ValueError(" ".join(message.split()).replace("--", ""))


def caption(clips: object, *, model: str | os.PathLike[str], **options) -> list[CaptionedClip]:
    """Caption one clip or many, as `vidcap caption` does.

    Args:
        clips: A path, URL or other source that [`decode_video`] takes, or a list of these.
        model: Model folder or Hub id, of any family.
        options: Of `vidcap caption`, such as `num_beams=4`, `captions=3` or `ban=["dog"]`.

    Returns:
        One [`CaptionedClip`] per clip: `text` is its caption, `captions` all of them with probabilities, `error` the
        reason why it could not be read.

    Raises:
        ModelError: If the model cannot be used.
        ValueError: For an option that is unknown or does not work with this model.
    """
    from .commands.caption import caption_results

    sources = list(clips) if isinstance(clips, (list, tuple)) else [clips]
    results = [
        CaptionedClip(os.fspath(source))
        if isinstance(source, (str, os.PathLike))
        else CaptionedClip(f"clip {index}", source=source)
        for index, source in enumerate(sources)
    ]
    arguments = _parse("caption", {"model": model, **options}, [result.file for result in results])
    caption_results(arguments, results)
    return results


def evaluate(
    model: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    **options,
) -> dict[str, Any]:
    """Evaluate a model on a data set, as `vidcap evaluate` does.

    Args:
        model: Model folder or Hub id, of any family.
        dataset: Folder or Hub id.
        output: The report, which ends in .json; a page of the same name appears beside it. Default: none is kept.
        options: Of `vidcap evaluate`, such as `split="validation"` or `controls="none"`.

    Returns:
        The report: `scores`, `controls`, `verdict` and more, see `vidcap.evaluation.evaluate.Evaluation`.

    Raises:
        ModelError: If the model cannot be used.
        ValueError: For an option that is unknown or does not work with this model, or data that cannot be used.
    """
    from .commands.evaluate import write_evaluation

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json") if output is None else output
        return write_evaluation(_parse("evaluate", {"model": model, "dataset": dataset, "output": report, **options}))


def train(dataset: object, output_dir: str | os.PathLike[str], **options) -> Path:
    """Train a model, as `vidcap train`; resume an interrupted run.

    Args:
        dataset: Folder or Hub id, or a list of these.
        output_dir: Folder for the model and its report.
        options: Of `vidcap train`, such as `max_train_minutes=6`.

    Returns:
        `output_dir`.

    Raises:
        ValueError: For options or data that cannot be used.
        ImportError: If a package of the extra `train` is missing.
    """
    from .training.main import run

    argv = _argv({"dataset": dataset, "output_dir": output_dir, **options}, switches=False)
    try:
        run(argv, "vidcap.train")
    except SystemExit as error:
        raise ValueError(f"wrong options of vidcap.train: {' '.join(argv)}; the line above says which") from error
    return Path(output_dir)


def push(
    folder: str | os.PathLike[str], repo_id: str, *, private: bool = False, force: bool = False, **options
) -> str:
    """Upload a trained model to the Hub, as `vidcap push` does.

    Args:
        folder: Output folder of a training run.
        repo_id: `user/name`, created if needed.
        private: Make a new repository private.
        force: Replace the content of the repository, whatever it is.
        options: Further options of [`push_to_hub`], such as `token`.

    Returns:
        The address of the repository.

    Raises:
        ExportError: If the folder does not hold a complete model.
        PushError: If the upload fails.
    """
    from hub_card import push_to_hub

    return push_to_hub(folder, repo_id, private=private or None, force=force, **options)


def _parse(command: str, options: Mapping[str, Any], positional: Iterable[str] = ()) -> argparse.Namespace:
    """The checked arguments of a command with these options."""
    arguments = build_parser(_Parser).parse_args(
        [command, *_argv(options), *(["--", *positional] if positional else [])]
    )
    arguments.check(arguments)
    return arguments


def _argv(options: Mapping[str, Any], *, switches: bool = True) -> list[str]:
    """Options as a command line, without those that are `None`.

    Args:
        switches: Whether `True` is an option without a value; otherwise it is written out.
    """
    argv = []
    for name, value in options.items():
        if value is None or (switches and value is False):
            continue
        values = [] if switches and value is True else value if isinstance(value, (list, tuple)) else [value]
        repeated = switches and name in ("by", "include")
        argv += [part for each in values for part in (f"--{name}", str(each))] if repeated else [f"--{name}"]
        argv += [] if repeated else map(str, values)
    return argv
