"""Trains one baseline on the cached features of our captioner, and writes its captions of the test split.

    python -m benchmarks.baselines.train git recipes/demo.yaml --dataset FOLDER --output_dir DIR --max_train_minutes 4
    python -m benchmarks.baselines.train nearest_neighbour --dataset FOLDER --output_dir DIR

The first argument is a kind of `baseline_models.py`, `nearest_neighbour` or `most_frequent`; the rest are the
arguments of `train_hf.py`, of which those of our model only set the size of the baseline. Tokenizer, clips, their
order, the sampling of frames and captions, schedule, budget, choice of the checkpoint and resuming are those of
`train_hf.py`; the optimiser is AdamW. `DIR/predictions.jsonl` contains the captions in the format of
`vidcap evaluate`, `DIR/result.json` facts about the training.
"""

import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainer, set_seed

from benchmarks.baselines.baseline_models import KINDS, make_baseline
from benchmarks.baselines.baselines import nearest_neighbours, pool_features
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator
from vidcap.evaluation import most_frequent_caption, score_captions
from vidcap.evaluation.scores.bootstrap import scores_per_clip
from vidcap.files import write_atomically
from vidcap.inference.captioning import ModelCaptioner
from vidcap.inference.clip_cache import keeps_features, open_clip_cache
from vidcap.training.arguments.command_line import parse
from vidcap.training.arguments.data_arguments import DataArguments
from vidcap.training.arguments.model_arguments import ModelArguments
from vidcap.training.arguments.training_arguments import VideoCaptionTrainingArguments
from vidcap.training.checkpoints import checkpoint_to_resume, mark_finished, read_manifest, run_settings
from vidcap.training.clips import FrameDraw, read_augmentation
from vidcap.training.data import load_training_data
from vidcap.training.model import build
from vidcap.training.precision import choose_precision
from vidcap.training.trainer import VideoCaptionTrainer

UNTRAINED = ("most_frequent", "nearest_neighbour")


class BaselineTrainer(VideoCaptionTrainer):
    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """AdamW with the settings of our captioner, without its groups for backbone and pretrained decoder."""
        return Seq2SeqTrainer.create_optimizer(self, *args, **kwargs)


def run(
    kind: str,
    data: DataArguments,
    model_args: ModelArguments,
    args: VideoCaptionTrainingArguments,
    given: frozenset[str],
) -> None:
    """Trains and captions; the arguments are the fields of `TrainOptions`."""
    assert args.output_dir is not None  # transformers sets a default
    set_seed(args.seed)
    args.muon, args.loss_warmup, args.word_dropout_warmup = False, 0.0, 0.0  # not for baselines
    sources = load_training_data(data, args)
    if sources.test is None:
        raise ValueError(f"--test_split {data.test_split}: no clips to caption; give another split")
    captions = [caption for clip_captions in sources.captions() for caption in clip_captions]
    ours, processor, model_args = build(model_args, captions, [], given, sources.validation)
    if data.streaming or not keeps_features(ours.config):
        raise ValueError(
            "baselines need the cached features of a frozen backbone: omit --streaming, and do not train the backbone"
        )
    ours.to(args.device)
    cache = open_clip_cache(
        ours, processor, folder=data.feature_cache, workers=data.decoding_workers, backend=data.feature_backend
    )
    frames = FrameDraw.for_model(data, read_augmentation(data), ours.config, ours.config.num_frames)
    validation = ClipDataset(sources.validation, cache).prepare("validation clips")
    clips = ClipDataset(
        sources.train, cache.with_frames(frames.pool), augmentation=frames.augmentation, mixture=sources.mixture
    )
    clips = clips.prepare("training clips")
    test = ClipDataset(sources.test, cache).prepare("test clips")

    result: dict[str, Any] = {"ours_parameters": ours.num_parameters(only_trainable=True)}
    if kind == "most_frequent":
        hypotheses = [most_frequent_caption(captions)] * len(test)
    elif kind == "nearest_neighbour":
        clips.augmentation = None
        nearest = nearest_neighbours(pool_features(test), pool_features(clips)).tolist()
        hypotheses = [clips.rows["captions"][index][0] for index in nearest]
    else:
        model = make_baseline(
            kind, ours.config, parameters=result["ours_parameters"], num_beams=model_args.num_beams
        ).to(args.device)
        if args.device.type == "cpu":
            model.net.set_attn_implementation("eager")  # faster on CPUs
        settings = run_settings(args, vars(data) | vars(model_args) | {"kind": kind}, captions)
        resume = checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint, settings)
        eval_collator = VideoCaptionCollator(processor, max_length=ours.config.max_position_embeddings)
        manifest = None if resume is None else read_manifest(resume)
        choose_precision(args, given, model, eval_collator, validation, manifest=manifest)
        trainer = BaselineTrainer(
            model=model,
            args=args,
            train_dataset=clips,
            eval_dataset=validation,
            data_collator=dataclasses.replace(eval_collator, draw=True),
            eval_collator=eval_collator,
            processing_class=processor,
            score=score_captions,
            score_clips=scores_per_clip,
            settings=settings,
        )
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        model = trainer.whole_model()
        hypotheses = ModelCaptioner(model, processor).caption(test, progress="captions")
        result |= {
            "parameters": model.num_parameters(),
            "layers": model.config.num_hidden_layers,
            "steps": trainer.state.global_step,
            "train_seconds": trainer.budget.spent if trainer.budget else None,
        }
    result |= {"scores": score_captions(hypotheses, test.rows["captions"]), "processor_seconds": time.process_time()}
    lines = [
        {"file_name": name, "hypothesis": hypothesis, "references": references}
        for name, hypothesis, references in zip(test.rows["file_name"], hypotheses, test.rows["captions"], strict=True)
    ]
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "predictions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_atomically(folder / "result.json", json.dumps(result, indent=1))
    mark_finished(args.output_dir)


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in (*UNTRAINED, *KINDS):
        print(f"train.py: error: the first argument must be one of {', '.join((*UNTRAINED, *KINDS))}", file=sys.stderr)
        return 2
    data, model_args, args, given = parse(argv[1:])
    logging.basicConfig(format="%(message)s")
    for name in ("hub_card", "modeling_vidcap", "processing", "vidcap"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        run(argv[0], data, model_args, args, given)
    except (ValueError, OSError) as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
