"""Steerings on the Hugging Face hub: one commit with the file and its card, and back."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from psr_lens.deploy.card import model_card
from psr_lens.models.checkpoint import hub_reachable
from psr_lens.models.quiet import one_line
from psr_lens.steering.base import KIND, Steering
from psr_lens.storage import container_bytes

FILE_NAME: Final = "steering.safetensors"
"""The name of a steering's file on the hub."""
_ADDRESS: Final = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(/(?P<file>[^@]+?))?/?(@(?P<revision>.+))?"
)
_REPO: Final = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class HubAddress:
    """Where a steering is on the hub.

    Attributes:
        repo_id: `owner/name`.
        file: Path in the repository.
        revision: Branch, tag or commit; None for the main branch.
    """

    repo_id: str
    file: str
    revision: str | None


def parse_address(address: str) -> HubAddress:
    """Take `hf://owner/name[/file][@revision]` apart.

    Raises:
        ValueError: If it is not such an address.

    Example:
        >>> parse_address("hf://owner/name/layers/one@v2")
        HubAddress(repo_id='owner/name', file='layers/one.safetensors', revision='v2')
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError(
            f"{address!r} is no address on the hub: write hf://owner/name, "
            "hf://owner/name/file or hf://owner/name@revision"
        )
    file = found["file"] or FILE_NAME
    if not file.endswith(".safetensors"):
        file += ".safetensors"
    return HubAddress(found["repo"], file, found["revision"])


def push(
    steering: Steering,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload steering with psr_lens",
    token: str | None = None,
) -> str:
    """`Steering.push_to_hub`."""
    from huggingface_hub import CommitOperationAdd, HfApi

    if not _REPO.fullmatch(repo_id):
        raise ValueError(f"repo_id={repo_id!r} is no name of a repository: write 'owner/name'")
    if not hub_reachable():
        raise _unreachable(f"hf://{repo_id}")
    api = HfApi(token=token)
    with _one_clear_line(f"hf://{repo_id}"):
        operations = [
            CommitOperationAdd(
                FILE_NAME, container_bytes(KIND, steering.state_dict(), steering.header())
            ),
            CommitOperationAdd("README.md", model_card(steering, repo_id).encode()),
        ]
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo_id, operations, commit_message=commit_message, revision=revision
        )
    return commit.commit_url


def pull(address: str) -> Path:
    """Fetch a steering's file into the local cache of the hub.

    Returns:
        Its path there.

    Raises:
        ValueError: If the address is not one on the hub.
        FileNotFoundError: If there is no such repository, revision or file.
        OSError: If the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    place = parse_address(address)
    with _one_clear_line(address):
        return Path(
            HfApi().hf_hub_download(
                place.repo_id,
                place.file,
                revision=place.revision,
                local_files_only=not hub_reachable(),
            )
        )


@contextmanager
def _one_clear_line(address: str) -> Iterator[None]:
    """Turn what the hub's client raises into one line that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise PermissionError(
            f"{address}: the repository is gated: ask for access on its page, then log in with "
            "`hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"{address}: the hub has no such repository, or it is private: check the name, or log "
            "in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(
            f"{address}: the repository has no such revision: name a branch, tag or commit"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise _unreachable(address) from None
    except errors.EntryNotFoundError:
        raise FileNotFoundError(
            f"{address}: the repository has no such file: name it, as in hf://owner/name/file"
        ) from None
    except errors.LocalTokenNotFoundError:
        raise PermissionError(
            f"{address}: you are not logged in: pass token=, or log in with `hf auth login`"
        ) from None
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise PermissionError(
                f"{address}: the hub refuses ({one_line(error)}): pass a token= that may write "
                "there, or log in with `hf auth login`"
            ) from None
        raise OSError(f"{address}: the hub answers with an error: {one_line(error)}") from None
    except (_transport_error(), errors.OfflineModeIsEnabled):
        raise _unreachable(address) from None


def _transport_error() -> type[Exception]:
    """The base class of transport errors in whichever HTTP library the hub's client is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def _unreachable(address: str) -> ConnectionError:
    return ConnectionError(
        f"{address}: the hub cannot be reached, and the local cache does not have it: go online "
        "(and unset HF_HUB_OFFLINE), or use save(...) and the path of a file"
    )
