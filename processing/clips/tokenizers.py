"""Tokenizers of captions: one made of the captions themselves, or that of a pretrained text model.

A small captioner is best served by whole words: short sequences, and a vocabulary that is exactly the data's own.
"""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ..support.trusted import load_pretrained

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

    Raises:
        ValueError: If the vocabulary has no room for a word.
    """
    if vocab_size <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"a vocabulary of {vocab_size} has no room for words beside {', '.join(SPECIAL_TOKENS)}: raise "
            "max_vocab_size"
        )
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
    vocabulary = [*SPECIAL_TOKENS, *words[: vocab_size - len(SPECIAL_TOKENS)]]
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


def load_tokenizer(source: str, *, max_length: int = 64) -> PreTrainedTokenizerFast:
    """The tokenizer of a pretrained text model, made fit for captions.

    Four different tokens are needed: to fill up, to begin, to end (a caption would never end if that were the one that
    fills up), and to stand for unknown and dropped words. BERT's [CLS] and [SEP] begin and end; what is missing, or
    doubles as the end, as in GPT-2, is added to the vocabulary. Whatever else the tokenizer puts around a text is left
    out: a caption is its tokens and the end.

    Args:
        source: Folder or Hub id.
        max_length: Longest caption in tokens, the end included.

    Raises:
        ValueError: If it has no `tokenizer.json` that could be changed, or needs code of its own.
        OSError: If there is no such folder or Hub id.
    """
    original = load_pretrained(AutoTokenizer.from_pretrained, source)
    if not original.is_fast:
        raise ValueError(f"{source}: a tokenizer in Python, which cannot be exported; take one with a tokenizer.json")
    eos = original.eos_token or original.sep_token
    special = {"eos_token": eos or "</s>"}
    found = {"pad": original.pad_token, "bos": original.bos_token or original.cls_token, "unk": original.unk_token}
    # What has two uses keeps that of the end, or else to begin or be unknown: these are read, and the filling is not.
    for name, own in (("bos", "<s>"), ("unk", "<unk>"), ("pad", "<pad>")):
        taken = {*special.values(), *(token for other, token in found.items() if other != name)}
        token = found[name]
        if token is None or token in special.values():
            token = next(each for each in (own, f"<{name}>", f"<caption_{name}>") if each not in taken)
        special[f"{name}_token"] = token
    # Not a class such as BertTokenizer, which would put its own tokens around a caption again when it is loaded.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=original.backend_tokenizer, model_max_length=max_length, **special
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {tokenizer.eos_token}", special_tokens=[(tokenizer.eos_token, tokenizer.eos_token_id)]
    )
    return tokenizer
