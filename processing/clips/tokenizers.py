"""Tokenizers of captions: trained on the captions themselves, or from a pretrained text model.

Whole words suit a small captioner: sequences are short, and the vocabulary is that of the data.
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
    """Train a lower-casing word-level tokenizer.

    Args:
        captions: Training captions.
        further: Other sentences, whose words follow those of the captions.
        vocab_size: Largest vocabulary; rarer words become the unknown token.
        max_length: Longest caption in tokens, EOS included.

    Returns:
        A tokenizer that ends each caption with EOS and has a separate pad token.

    Raises:
        ValueError: If the vocabulary has no room for a word.
    """
    if vocab_size <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"max_vocab_size={vocab_size}: there is no room for words beside {', '.join(SPECIAL_TOKENS)}; raise it"
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
    """Load the tokenizer of a pretrained text model and adapt it to captions.

    Captions need four different tokens: to pad, to begin, to end (a caption would never end if this were the one that
    pads), and for unknown and dropped words. BERT's [CLS] and [SEP] begin and end; tokens that are missing, or double
    as the end, as in GPT-2, are added to the vocabulary. A caption is its tokens and the end; anything else that the
    tokenizer adds is left out.

    Args:
        source: Folder or Hub id.
        max_length: Longest caption in tokens, the end included.

    Raises:
        ValueError: If it has no `tokenizer.json`, or needs code of its own.
        OSError: If there is no such folder or Hub id.
    """
    original = load_pretrained(AutoTokenizer.from_pretrained, source)
    if not original.is_fast:
        raise ValueError(f"{source}: a tokenizer in Python cannot be exported; choose a model with a tokenizer.json")
    eos = original.eos_token or original.sep_token
    special = {"eos_token": eos or "</s>"}
    given = {"pad": original.pad_token, "bos": original.bos_token or original.cls_token, "unk": original.unk_token}
    # A token with two uses keeps that of the end, otherwise of the beginning or of unknown words, before that of the
    # padding, which is not read.
    for name, default in (("bos", "<s>"), ("unk", "<unk>"), ("pad", "<pad>")):
        taken = {*special.values(), *(token for other, token in given.items() if other != name)}
        token = given[name]
        if token is None or token in special.values():
            token = next(new for new in (default, f"<{name}>", f"<caption_{name}>") if new not in taken)
        special[f"{name}_token"] = token
    # Not a class such as BertTokenizer, which would put its own tokens around a caption again when it is loaded.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=original.backend_tokenizer, model_max_length=max_length, **special
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {tokenizer.eos_token}", special_tokens=[(tokenizer.eos_token, tokenizer.eos_token_id)]
    )
    return tokenizer
