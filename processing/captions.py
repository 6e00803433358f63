"""Captions -> a word-level tokenizer, and token ids -> captions.

A small captioner is best served by whole words: short sequences, and a vocabulary that is exactly the data's own.
"""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")  # in the order of their ids
WORD = r"\w+(?:[-'’]\w+)*|[^\w\s]"  # a word keeps its hyphens and apostrophes; other marks stand alone


def train_tokenizer(
    captions: Iterable[str], further: Iterable[str] = (), *, vocab_size: int = 10_000, max_length: int = 64
) -> PreTrainedTokenizerFast:
    """Makes a lower-casing word-level tokenizer out of the captions themselves.

    Args:
        captions: Training captions.
        further: Other sentences, whose words follow behind those of the captions.
        vocab_size: Upper bound of the vocabulary; the rarest words beyond it become the unknown token.
        max_length: Longest caption in tokens, EOS included.

    Returns:
        A tokenizer that ends each caption with EOS and has a pad token of its own.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)

    def words_of(texts: Iterable[str]) -> list[str]:
        counts: Counter[str] = Counter()
        for text in texts:
            normalized = tokenizer.normalizer.normalize_str(text)
            counts.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized))
        return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]

    words = list(dict.fromkeys([*words_of(captions), *words_of(further)]))
    vocabulary = [*SPECIAL_TOKENS, *words[: max(0, vocab_size - len(SPECIAL_TOKENS))]]
    tokenizer.model = models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=max_length,
        clean_up_tokenization_spaces=True,
    )
