"""Clip -> caption: backbone, a space-time encoder, and a CoCa-style decoder whose first layers read text only.

Guarantees: padding, masked frames and the KV cache change nothing; a frozen backbone's features may be passed in place
of pixels. Limitations: one sentence per clip, no events of long videos.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache

from .backbones_vidcap import VideoBackbone
from .configuration_vidcap import VideoCaptionConfig
from .decoder_vidcap import VideoCaptionDecoder
from .encoder_vidcap import (
    VideoCaptionEncoder,
    VideoCaptionModelOutput,
    VideoCaptionOutput,
    VideoCaptionPooler,
    VideoCaptionPreTrainedModel,
    VideoEncoderOutput,
    pooling_mask,
)
from .generation_vidcap import VideoCaptionGenerationMixin
from .losses_vidcap import SIGMOID_BIAS, caption_loss, contrastive_loss, play_backwards
from .memory_vidcap import CaptionMemory
from .pretrained_decoder_vidcap import PretrainedDecoder
from .scoring_vidcap import CaptionScoring

if TYPE_CHECKING:  # so that transformers copies its file, which the config names, with this one
    from .pipeline_vidcap import VideoCaptioningPipeline  # noqa: F401

MASKED_WORDS = 0.5  # share of a caption's words that the masked-word loss masks and predicts


class VideoCaptionModel(VideoCaptionPreTrainedModel):
    """Encoder and decoder without the language-model head."""

    def __init__(self, config: VideoCaptionConfig):
        super().__init__(config)
        self.encoder = VideoCaptionEncoder(config)
        self.decoder: Any = (VideoCaptionDecoder if config.decoder_config is None else PretrainedDecoder)(config)
        self.word_dropout_ramp = 1.0  # see `set_ramps`
        self.post_init()

    @property
    def backbone(self) -> VideoBackbone:
        """The backbone, which turns pixels into features."""
        return self.encoder.backbone

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.set_input_embeddings(value)

    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        video_words: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: VideoEncoderOutput | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> VideoCaptionModelOutput:
        if decoder_input_ids is None:
            raise ValueError(
                "`decoder_input_ids` or `labels` are needed to score a caption; to write one, call `generate`"
            )
        recorded = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                pixel_values_videos, video_mask, video_times, video_features, video_words, **recorded
            )
        if self.training:
            rate = self.config.word_dropout * self.word_dropout_ramp
            decoder_input_ids = drop_words(decoder_input_ids, self.config, rate=rate)
        outputs = self.decoder(
            decoder_input_ids,
            hide_videos(encoder_outputs, self.config) if self.training else encoder_outputs,
            attention_mask=decoder_attention_mask,
            cache=cache,
            use_cache=use_cache,
            **recorded,
        )
        return VideoCaptionModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            cache=outputs.cache,
            encoder_outputs=encoder_outputs,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )


class VideoCaptionForConditionalGeneration(CaptionScoring, VideoCaptionPreTrainedModel, VideoCaptionGenerationMixin):
    """The captioner: caption cross-entropy plus a contrastive loss between the clip and its caption.

    Example:

    ```python
    >>> import vidcap
    >>> from transformers import AutoModel, AutoProcessor

    >>> model = AutoModel.from_pretrained("my-captioner")
    >>> processor = AutoProcessor.from_pretrained("my-captioner")
    >>> inputs = processor(videos="clip.mp4", return_tensors="pt")
    >>> processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    ['a red circle slides left and then grows']
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    # Otherwise a Trainer that loads a checkpoint would report the tied head as missing.
    _keys_to_ignore_on_save = ["lm_head.weight"]
    # Models saved before version 0.2 have no statistics of their training clips.
    _keys_to_ignore_on_load_missing = [r"novelty\."]
    accepts_loss_kwargs = True  # the Trainer passes `num_items_in_batch`, see `caption_loss`
    pooler_class = VideoCaptionPooler

    def __init__(self, config: VideoCaptionConfig):
        super().__init__(config)
        self.model = VideoCaptionModel(config)
        self.add_heads(config)
        self.loss_ramp = 1.0  # see `set_ramps`
        self.logit_bias = None
        if config.contrastive_type == "sigmoid":
            self.logit_bias = nn.Parameter(torch.tensor(SIGMOID_BIAS))
        if config.decoder_config is not None:
            table = self.model.get_input_embeddings().weight
            name = next(name for name, each in self.named_parameters() if each is table)
            self._tied_weights_keys = {"lm_head.weight": name}
            if not config.tie_word_embeddings:
                self._tied_weights_keys, self._keys_to_ignore_on_save = {}, []
        self.post_init()

    def set_ramps(self, *, losses: float = 1.0, word_dropout: float = 1.0) -> None:
        """Set factors that a Trainer raises from 0 to 1.

        Args:
            losses: Factor of scheduled sampling and of the weights of all losses but the caption loss.
            word_dropout: Factor of the rate of word dropout.
        """
        self.loss_ramp = losses
        self.model.word_dropout_ramp = word_dropout

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.novelty:
            for buffer, value in ((module.mean, 0.0), (module.precision, 0.0), (module.limit, 1.0)):
                init.constant_(buffer, value)
        if isinstance(module, CaptionMemory):
            for buffer in module.buffers():
                init.zeros_(buffer)
        if module is self:
            init.constant_(self.logit_scale, self.config.logit_scale_init_value)
            if self.logit_bias is not None:
                init.constant_(self.logit_bias, SIGMOID_BIAS)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.model.encoder

    def get_decoder(self) -> nn.Module:
        return self.model.decoder

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        return shift_right(labels, self.config)

    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        video_words: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """L2-normalised clip embeddings `(B, projection_dim)`, comparable with [`get_text_features`]."""
        return self.embed_encoded(
            self.model.encoder(pixel_values_videos, video_mask, video_times, video_features, video_words)
        )

    def _pooling_mask(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return pooling_mask(self.config, hidden_states, attention_mask)

    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        video_words: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: VideoEncoderOutput | None = None,
        cache: Cache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        near_misses: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> VideoCaptionOutput | tuple:
        """Score captions; with `labels`, also computes the loss.

        Args:
            pixel_values_videos: `(B, T, C, H, W)`, from the processor.
            video_mask: `(B, T)`, 0 for frames that pad a short clip.
            video_times: `(B, T)`, seconds.
            video_features: `(B, T, N, D)`, the backbone's output, in place of pixels.
            video_words: `(B, P)`, in place of the prediction of the [`CaptionMemory`].
            decoder_input_ids: `(B, L)`; default: the labels, shifted right behind BOS.
            labels: `(B, L)`, the caption's tokens and EOS, padded with -100.
            near_misses: `(B, K, L)`, captions that nearly fit, as hard negatives of the contrastive loss; a row of
                -100 stands for none.
            num_items_in_batch: Number of labels in the whole optimiser step, see [`caption_loss`].
            output_attentions: Return the weights of all attentions; needs `attn_implementation="eager"`.
            output_hidden_states: Return the input of the first layer and the output of each layer.
        """
        recorded = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None:
                decoder_input_ids = shift_right(labels, self.config)
        reverse = self.training and labels is not None and self.config.reversed_negatives
        if reverse and video_features is None and not self.config.encodes_clips:
            video_features = self.model.encoder.extract_features(pixel_values_videos)  # once for both directions
        if encoder_outputs is None:
            encoder_outputs = self.model.encoder(
                pixel_values_videos, video_mask, video_times, video_features, video_words, **recorded
            )
        if self.training and decoder_input_ids is not None and self.config.scheduled_sampling * self.loss_ramp:
            decoder_input_ids = self._mix_in_predictions(decoder_input_ids, encoder_outputs)
        outputs = self.model(
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            cache=cache,
            use_cache=self.config.use_cache if use_cache is None else use_cache,
            **recorded,
        )
        others = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        result = VideoCaptionOutput(logits=self.lm_logits(outputs.last_hidden_state), **others)
        if labels is not None:
            self._add_caption_losses(result, labels, num_items_in_batch)
            if self.config.contrastive_weight > 0:
                backwards = None
                if reverse:
                    clips = {"video_mask": video_mask, "video_times": video_times}
                    if video_features is None:
                        clips["pixel_values_videos"] = pixel_values_videos
                    else:
                        clips["video_features"] = video_features
                    clips["video_words"] = video_words
                    present = {name: value for name, value in clips.items() if value is not None}
                    backwards = self.model.encoder(**play_backwards(present))
                self._add_contrastive_loss(result, labels, near_misses, backwards, num_items_in_batch)
        return result if return_dict is not False else result.to_tuple()

    def _add_caption_losses(
        self, result: VideoCaptionOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> None:
        smoothing = self.config.label_smoothing if self.training else 0.0
        options: Any = {"label_smoothing": smoothing, "num_items_in_batch": num_items_in_batch}
        result.caption_loss = caption_loss(result.logits, labels, **options)
        result.loss = self.config.caption_weight * result.caption_loss
        if self.training and self.config.masked_word_weight:
            # Without EOS, which is among the inputs of all captions but the longest.
            ends = torch.isin(labels, torch.tensor(self.config.eos_token_id, device=labels.device))
            inputs = shift_right(labels.masked_fill(ends, -100), self.config)
            masked = drop_words(inputs, self.config, rate=MASKED_WORDS)
            # A word is predicted at the place before its own, as everywhere in this decoder.
            masked_labels = labels.masked_fill((masked == inputs).roll(-1, dims=1), -100)
            masked_labels[:, -1] = -100
            outputs = self.model.decoder(
                masked, result.encoder_outputs, inputs.ne(self.config.pad_token_id).long(), is_causal=False
            )
            # Divided by the expected number of masked words: the actual one may be 0, or vary between micro-batches.
            words = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
            options["num_items_in_batch"] = MASKED_WORDS * words
            logits = self.lm_logits(outputs.last_hidden_state)
            result.masked_word_loss = caption_loss(logits, masked_labels, **options)
            weight = self.config.masked_word_weight * self.loss_ramp
            result.loss = result.loss + weight * result.masked_word_loss

    def _add_contrastive_loss(
        self,
        result: VideoCaptionOutput,
        labels: torch.Tensor,
        near_misses: torch.Tensor | None,
        backwards: VideoEncoderOutput | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> None:
        caption_ids = labels.masked_fill(labels == -100, self.config.pad_token_id)
        result.video_embeds = self._video_embeds(result.encoder_outputs)
        result.text_embeds = self.text_projection(self.model.decoder.encode_text(caption_ids))
        negative_texts = None
        if near_misses is not None:
            ids = near_misses.masked_fill(near_misses == -100, self.config.pad_token_id).flatten(0, 1)
            embeds = self.text_projection(self.model.decoder.encode_text(ids))
            none = ids.eq(self.config.pad_token_id).all(dim=1, keepdim=True)
            negative_texts = embeds.masked_fill(none, 0.0).unflatten(0, near_misses.shape[:2])
        result.contrastive_loss = contrastive_loss(
            result.video_embeds,
            result.text_embeds,
            self.logit_scale,
            labels.masked_fill(labels == -100, -1),
            logit_bias=self.logit_bias,
            negative_texts=negative_texts,
            negative_videos=None if backwards is None else self._video_embeds(backwards).unsqueeze(1),
        )
        # `num_items_in_batch` spans the whole optimiser step, the contrastive loss one micro-batch: its share of
        # the step is its share of the labels, so that accumulation does not multiply it.
        share = 1.0 if num_items_in_batch is None else (labels != -100).sum() / num_items_in_batch
        weight = self.config.contrastive_weight * (self.loss_ramp if self.training else 1.0)
        result.loss = result.loss + weight * share * result.contrastive_loss

    @torch.no_grad()
    def _mix_in_predictions(self, input_ids: torch.Tensor, encoder_outputs: VideoEncoderOutput) -> torch.Tensor:
        """Replace a share `scheduled_sampling` of the input words by the model's own predictions."""
        outputs = self.model.decoder(input_ids, encoder_outputs)
        hidden_states = outputs.last_hidden_state[:, :-1]  # which predict the words from the second on
        predicted = self.lm_logits(hidden_states).argmax(dim=-1)
        rate = self.config.scheduled_sampling * self.loss_ramp
        replace = torch.rand(predicted.shape, device=predicted.device) < rate
        replace &= input_ids[:, 1:] != self.config.pad_token_id
        return torch.cat([input_ids[:, :1], torch.where(replace, predicted, input_ids[:, 1:])], dim=1)


def shift_right(labels: torch.Tensor, config: VideoCaptionConfig) -> torch.Tensor:
    """Decoder inputs for `labels`: the start token, then all labels but the last; -100 becomes padding."""
    start = labels.new_full((labels.shape[0], 1), config.decoder_start_token_id)
    return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, config.pad_token_id)], dim=1)


def drop_words(input_ids: torch.Tensor, config: VideoCaptionConfig, *, rate: float) -> torch.Tensor:
    """Replace a share `rate` of the words, but not the start token or padding, by the unknown token."""
    if rate == 0:
        return input_ids
    drop = torch.rand(input_ids.shape, device=input_ids.device) < rate
    drop &= (input_ids != config.decoder_start_token_id) & (input_ids != config.pad_token_id)
    return input_ids.masked_fill(drop, config.unk_token_id)


def hide_videos(encoder_outputs: VideoEncoderOutput, config: VideoCaptionConfig) -> VideoEncoderOutput:
    """Zero all tokens of a share `config.video_dropout` of the clips."""
    if config.video_dropout == 0:
        return encoder_outputs
    tokens = encoder_outputs.last_hidden_state  # (B, S, D)
    keep = torch.rand(len(tokens), 1, 1, device=tokens.device) >= config.video_dropout
    return VideoEncoderOutput(
        last_hidden_state=tokens * keep,
        attention_mask=encoder_outputs.attention_mask,
        token_times=encoder_outputs.token_times,
    )


__all__ = ["VideoCaptionForConditionalGeneration", "VideoCaptionModel", "VideoCaptionPreTrainedModel"]
