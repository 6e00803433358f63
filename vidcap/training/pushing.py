"""`trainer.push_to_hub`: the finished captioner, checked, and nothing else of the run."""

from typing import Any, cast

from transformers import Trainer

from hub_card.sharing import push_captioner
from processing import VideoCaptionProcessor


class PushMixin(Trainer):
    """Uploads what [`push_captioner`] does; to be named ahead of a `Trainer`."""

    args: Any

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> str | None:
        """Uploads model and processor as one repository, once it has loaded in a process without this package and
        given what this model gives. It always waits for the end of the upload; `kwargs` are facts for the card.

        Returns:
            The repository's address, on the first process.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if not self.is_world_process_zero():
            return None
        return push_captioner(
            self.accelerator.unwrap_model(self.model),
            cast(VideoCaptionProcessor, self.processing_class),
            repo_id=self.args.repository,
            facts=kwargs,
            private=self.args.hub_private_repo if private is None else private,
            token=self.args.hub_token if token is None else token,
            commit_message=commit_message,
            revision=revision or self.args.hub_revision,
        )
