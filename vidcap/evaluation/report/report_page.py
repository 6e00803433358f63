"""A report as one page that a browser opens without a server or a network.

Guarantees: the page is one file that loads nothing. It contains one script, which sorts, filters and plays clips, and
a content security policy that lets a browser run this script alone, by its hash, and load only pictures within the
page. Without scripts everything else can be read. Every text of the data set or the model is escaped.

Limitations: the page shows the keys it knows and every other plain number or text; deeper values are in `report.json`
alone.
"""

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hub_card.labels import CONTROLS, SCORES, SHARES, control_label

from .clip_pictures import ReportExample, draw_strip, encode_animation
from .curves import draw_panels, find_panels

_LEGEND = {
    "CIDEr": "× 100. Agreement with the references; words that are rare in the data set weigh more.",
    "BLEU-1 to 4": "× 100. Share of the caption's phrases of one (up to four) words that occur in a reference.",
    "ROUGE-L": "× 100. Longest sequence of words, gaps allowed, that caption and reference share.",
    "exact": "Share of captions that equal a reference, word for word.",
    "distinct": "Number of different captions per clip. Near zero, every clip gets the same sentence.",
    "exact, backwards": (
        "Share of clips played backwards that get exactly the caption that is then true. High for a captioner that "
        "sees the order of events. Only clips whose true caption changes count."
    ),
}
_NOT_SCORES = {"clips"}  # numbers beside the scores of a control
_FACTS = {"train_seconds": "training", "total_seconds": "whole run", "peak_rss_mb": "peak memory"}
_CARDS = 40
_WORDS, _LETTERS, _REFERENCES = 60, 400, 5  # shown per caption, and captions shown per clip
_GROUNDED, _CONFUSED = 40, 12  # rows of a table


def render_page(
    report: Mapping[str, Any], examples: Sequence[ReportExample], history: Sequence[Mapping[str, Any]]
) -> str:
    """The page of a report, see `write_report`, with the first 40 examples."""
    scores, controls = report.get("scores", {}), report.get("controls", {})
    panels = find_panels(history)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = format_score
    folder = Path(__file__).parent
    template = environment.from_string((folder / "report_template.html").read_text(encoding="utf-8"))
    script = (folder / "report_script.js").read_text(encoding="utf-8")
    rows = [("this model", scores, "")]
    for table in (controls, report.get("baselines", {})):
        rows += [(control_label(name), values, _gap(values)) for name, values in table.items()]
    kinds = report.get("by_kind", {})
    errors = report.get("errors", {})
    return template.render(
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        verdicts=_verdicts(report),
        columns=[(key, SCORES.get(key, key)) for key in _score_keys(values for _, values, _ in rows)],
        rows=rows,
        has_gaps=any(gap for _, _, gap in rows),
        legend=[*_control_meanings(controls), *_LEGEND.items()],
        basis=_basis(report),
        kinds=kinds,
        kind_columns=[(key, SCORES.get(key, key)) for key in _score_keys(kinds.values(), counts=True)],
        groups=[
            (name, table, [(key, SCORES.get(key, key)) for key in _score_keys(table.values(), counts=True)])
            for name, table in errors.get("groups", {}).items()
        ],
        confusions=errors.get("confusions", {}),
        most_confused=_CONFUSED,
        grounding=_grounded(report.get("grounding", {})),
        most_grounded=_GROUNDED,
        copies=report.get("copies"),
        leakage=report.get("leakage"),
        facts=_facts(report),
        versions=report.get("versions", {}),
        skipped=report.get("skipped_clips", []),
        curves=[_base64(draw_panels(panels, dark=dark)) for dark in (False, True)] if panels else [],
        cards=[_card(example) for example in examples[:_CARDS]],
        clips=report.get("clips") if isinstance(report.get("clips"), int) else len(examples),
    )


def format_score(value: float | None, key: str) -> str:
    """A score as the page shows it."""
    if not isinstance(value, int | float):
        return "–"
    if key in SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _score_keys(tables: Iterable[Mapping[str, Any]], *, counts: bool = False) -> list[str]:
    """Names of all scores that occur: the known ones in their order, then the others."""
    keys = {
        key: None
        for table in tables
        for key, value in table.items()
        if isinstance(value, int | float) and (counts or key not in _NOT_SCORES)
    }
    return [key for key in SCORES if key in keys] + [key for key in keys if key not in SCORES]


def _gap(values: Mapping[str, Any]) -> str:
    """Difference between the score and a control, with its interval."""
    if "gap" not in values:
        return ""
    difference, low, high = values["gap"]["cider"]
    return f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def _control_meanings(controls: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Name and meaning of each control of the report; an unknown control may bring its own meaning."""
    meanings = {
        key: values.get("meaning", CONTROLS[key].meaning if key in CONTROLS else "")
        for key, values in controls.items()
    }
    return [(control_label(key), str(meaning)) for key, meaning in meanings.items() if meaning]


def _verdicts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each answer as `good`, `bad` or `open`, and its sentence."""
    kinds = {"yes": "good", "no": "bad"}
    opposite = {"yes": "bad", "no": "good"}
    return [
        ((opposite if row["question"] == "memorises" else kinds).get(row["answer"], "open"), row["sentence"])
        for row in report.get("verdict", [])
    ]


def _basis(report: Mapping[str, Any]) -> str:
    """The clips and settings behind the scores, in a sentence."""
    parts = []
    if coverage := report.get("coverage"):
        counted = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in coverage.items())
        parts.append(f"Clips: {counted}")
    if scoring := report.get("scoring"):
        counts = scoring["references_per_clip"]
        span = f"{counts['min']}" if counts["min"] == counts["max"] else f"{counts['min']} to {counts['max']}"
        parts.append(f"tokenizer {scoring['tokenizer']}")
        parts.append(f"{span} reference{'s' if counts['max'] > 1 else ''} per clip (median {counts['median']:g})")
        parts.append(f"document frequencies from {scoring['document_frequencies']}")
    basis = "; ".join(parts)
    return basis[:1].upper() + basis[1:]


def _grounded(grounding: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Words by the fall of their probability without the video, largest first."""
    return sorted(grounding.get("words", {}).items(), key=lambda item: -item[1]["fall"])


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every plain number and text of the report that no table shows."""
    facts = []
    for key, value in report.items():
        if key == "data_sets" and len(value) > 1:
            text = ", ".join(f"{source['name']} (weight {source.get('weight', 'by clips')})" for source in value)
        elif isinstance(value, bool | str):
            text = str(value)
        elif not isinstance(value, int | float):
            continue
        elif key.endswith("_seconds"):
            minutes, seconds = divmod(round(value), 60)
            text = f"{minutes} min {seconds} s" if minutes else f"{value:.1f} s"
        elif key.endswith("_mb"):
            text = f"{value:,.0f} MB"
        else:
            text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
        facts.append((_FACTS.get(key, key.replace("_", " ")), text))
    return facts


def _card(example: ReportExample) -> dict[str, Any]:
    strip = io.BytesIO()
    draw_strip(example, height=96).save(strip, "JPEG", quality=75)
    animation = encode_animation(example)
    return {
        "example": example,
        "strip": _base64(strip.getvalue()),
        "animation": None if animation is None else _base64(animation),
        "references": [_shortened(reference) for reference in example.references[:_REFERENCES]],
        "more_references": len(example.references[_REFERENCES:]),
        "words": _compare(_shortened(example.hypothesis), example.references),
        "length": len(example.hypothesis.split()),
        "controls": [(control_label(name), _shortened(caption)) for name, caption in example.controls.items()],
    }


def _shortened(caption: str) -> str:
    """A caption cut to 60 words and 400 letters, with its length if it was longer."""
    words = caption.split()
    text = " ".join(words[:_WORDS])[:_LETTERS]
    return text if text == " ".join(words) else f"{text} … (of {len(words):,} words)"


def _compare(hypothesis: str, references: Sequence[str]) -> list[tuple[str, bool]]:
    """The caption's words, and whether each differs from the closest reference."""
    words = hypothesis.split()
    matchers = [
        SequenceMatcher(None, words, _shortened(reference).split(), autojunk=False) for reference in references
    ]
    closest = max(matchers, key=SequenceMatcher.ratio)
    same = {block.a + i for block in closest.get_matching_blocks() for i in range(block.size)}
    return [(word, i not in same) for i, word in enumerate(words)]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
