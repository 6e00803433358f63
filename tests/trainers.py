"""A trainer of the tiny captioner on eight clips, for every test of training that needs no folder of clips."""

import torch

from processing.clips.collator import VideoCaptionCollator
from tests.tiny import tiny_clip, tiny_model
from vidcap.evaluation import score_captions
from vidcap.evaluation.scores.bootstrap import scores_per_clip
from vidcap.training.arguments.training_arguments import VideoCaptionTrainingArguments
from vidcap.training.trainer import VideoCaptionTrainer

CAPTIONS = (
    "a red circle grows",
    "a blue square spins slowly",
    "the cat runs",
    "a small dog sleeps and then runs",
    "a green star blinks",
    "the large cat jumps over the dog",
    "a circle slides left and then right",
    "a star slides up",
)


class Clips(torch.utils.data.Dataset):
    """Eight clips of random colours with captions of unequal lengths."""

    def __init__(self, processor):
        self.items = []
        for seed, caption in enumerate(CAPTIONS):
            inputs = processor(videos=tiny_clip(seed))
            self.items.append({name: value[0] for name, value in inputs.items()} | {"captions": [caption]})

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def make_trainer(output_dir, processor, clips, *, model=None, **options) -> VideoCaptionTrainer:
    values = {
        "per_device_train_batch_size": 8,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
        "seed": 3,
    }
    args = VideoCaptionTrainingArguments(output_dir=str(output_dir), **(values | options))
    return VideoCaptionTrainer(
        model=model or tiny_model(word_dropout=0.3, initializer_range=0.05),
        args=args,
        train_dataset=clips,
        eval_dataset=clips,
        data_collator=VideoCaptionCollator(processor),
        processing_class=processor,
        score=score_captions,
        score_clips=scores_per_clip,
    )
