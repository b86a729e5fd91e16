"""The place of a hub model in the store, and the hidden folder in which its files are gathered.

Files have their final names there when they are whole and their hashes right. Then the folder takes
the model's name and the manifest is written. A process that is killed loses nothing of that,
whenever it happens.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from edgellm.device.memory import folder_metadata
from edgellm.errors import FetchError
from edgellm.models import store
from edgellm.models.check import check_model_file, inspect_model_file
from edgellm.models.check_folder import check_model_folder
from edgellm.models.choice import Candidate
from edgellm.models.download import (
    Progress,
    download,
    download_beginning,
    hash_file,
    link_or_copy,
    partial_of,
    partial_path,
)
from edgellm.models.hub import RemoteFile, Repository
from edgellm.models.hub_cache import cached_file
from edgellm.models.needs import MemoryNeeds, memory_needs, require_space
from edgellm_converters.checkpoints.gguf_header import MAX_HEADER_BYTES, GGUFHeader
from edgellm_converters.errors import ConvertersError, CorruptFileError
from edgellm_converters.jsonfile import MAX_BYTES, read_object

__all__ = ["Place"]

# The beginning of a file that its header is looked for in; doubled as long as it is too short.
BEGINNING = 4 << 20


class Place:
    """Where a model lies, and where its files are gathered before."""

    def __init__(self, repository: Repository, candidate: Candidate) -> None:
        self.repository = repository
        self.candidate = candidate
        self.name = f"{repository.repo}:{candidate.label}"
        self.manifest_path = store.hub_manifest_path(repository.repo, candidate.label)
        self.folder = self.manifest_path.with_name(candidate.label)
        content = [f"{file.sha256 or file.oid}  {file.name}\n" for file in candidate.files]
        key = hashlib.sha256("".join(content).encode()).hexdigest()[:16]
        self.staging = store.staging_path(self.folder, key)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes away, and remove what older versions have left half-done.

        Raises:
            FetchError: another process has it.
        """
        self.staging.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            if not stack.enter_context(store.try_lock(self.staging)):
                raise FetchError(f"another process is pulling {self.name} already")
            for path in store.staging_folders(self.folder):
                with store.try_lock(path) as free:
                    if free and path != self.staging:
                        shutil.rmtree(path, ignore_errors=True)
            self._tidy()
            try:
                yield
            finally:
                for path in (self.staging, self.staging.parent, self.staging.parent.parent):
                    with suppress(OSError):  # not empty
                        path.rmdir()

    def _tidy(self) -> None:
        """Remove what is neither a file of the model nor the beginning of one."""
        wanted = {self.target(file) for file in self.candidate.files}
        for path in self.staging.rglob("*"):
            if path.is_file() and path not in wanted and partial_of(path, wanted) is None:
                path.unlink()
        for path in sorted(self.staging.rglob("*"), reverse=True):
            if path.is_dir():
                with suppress(OSError):  # not empty
                    path.rmdir()

    def target(self, file: RemoteFile) -> Path:
        """Give the name of a file while it is gathered."""
        return self.staging / self._local(file)

    def _local(self, file: RemoteFile) -> str:
        """Give a file's name inside of the model's folder; only folders have folders inside."""
        return file.name if self.candidate.kind == "folder" else file.name.rpartition("/")[2]

    def gather(self, report: Progress) -> bool:
        """Take what is here: of the model's own folder, or of huggingface_hub's cache.

        Gives whether the model is in the store already, whole and the same; nothing is taken then.
        """
        found: dict[RemoteFile, Path] = {}
        for file in self.candidate.files:
            here = self.folder / self._local(file)
            cached = cached_file(self.repository.repo, self.repository.revision, file)
            for source in (here, cached):
                if source is not None and source.is_file() and file not in found:
                    what = f"checking {file.name}"
                    if hash_file(source, file, what, report) is not None:
                        found[file] = source
        own = [path for path in found.values() if path.is_relative_to(self.folder)]
        manifest = store.read_manifest(self.manifest_path)
        if manifest is not None and len(own) == len(self.candidate.files):
            return True
        for file, source in found.items():
            target = self.target(file)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.stat().st_dev != self.staging.stat().st_dev:  # it has to be copied
                    require_space(self.name, file.size, self.staging)
                link_or_copy(source, target)
        return False

    def missing(self) -> int:
        """Give how many bytes have to come through the network."""
        count = 0
        for file in self.candidate.files:
            if not self.target(file).exists():
                partial = partial_path(self.target(file))
                have = partial.stat().st_size if partial.exists() else 0
                count += file.size - min(file.size, have)
        return count

    def bring(self, file: RemoteFile, report: Progress) -> str:
        """Bring a file into the gathering folder, if it is not there, and give its sha256."""
        target = self.target(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            return download(self.repository, file, target, report)
        # Its hash was right when it got this name; of a large file it is known besides.
        digest = file.sha256 or hash_file(target, file, f"checking {file.name}", report)
        if digest is None:
            target.unlink()
            return download(self.repository, file, target, report)
        return digest

    def needs(self, report: Progress) -> MemoryNeeds | None:
        """Estimate what the model takes in memory, by its header or config.json."""
        weights = self.candidate.bytes
        if self.candidate.kind == "folder":
            config = next(file for file in self.candidate.files if file.name == "config.json")
            if config.size > MAX_BYTES:
                raise FetchError(f"config.json of {self.repository.repo} has {config.size} bytes")
            self.bring(config, report)
            return memory_needs(folder_metadata(read_object(self.target(config))), weights)
        header = self._header(self.candidate.files[0], report)
        return memory_needs(header.metadata, weights)

    def _header(self, file: RemoteFile, report: Progress) -> GGUFHeader:
        """Read the header of the model, of which perhaps only the beginning is here."""
        target = self.target(file)
        if target.exists():
            return self._checked(target)
        count = BEGINNING
        while True:
            partial = download_beginning(self.repository, file, target, count, report)
            have = partial.stat().st_size
            with tempfile.TemporaryDirectory(dir=self.staging) as folder:
                # as long as the real file, so that what lies where can be checked; a hole behind
                sparse = Path(folder) / target.name
                with partial.open("rb") as source, sparse.open("wb") as out:
                    shutil.copyfileobj(source, out)
                    out.truncate(file.size)
                try:
                    header = self._checked(sparse)
                    if header.data_offset <= have:
                        return header
                except CorruptFileError:
                    if have >= min(file.size, MAX_HEADER_BYTES):
                        raise
            count = 2 * have

    def check(self) -> None:
        """Let the finished model pass the safety check."""
        try:
            if self.candidate.kind == "folder":
                check_model_folder(self.staging)
            else:
                self._checked(self.target(self.candidate.files[0]))
        except ConvertersError:
            shutil.rmtree(self.staging)
            raise

    def _checked(self, path: Path) -> GGUFHeader:
        whole = len(self.candidate.files) == 1 or path == self.target(self.candidate.files[0])
        return check_model_file(path) if whole else inspect_model_file(path)

    def renew(self) -> None:
        """Write down the commit of which the same files are."""
        manifest = store.read_manifest(self.manifest_path)
        if manifest is not None and manifest.revision != self.repository.revision:
            manifest = replace(
                manifest, revision=self.repository.revision, source=self._source_in_words()
            )
            store.write_manifest(self.manifest_path, manifest)

    def _source_in_words(self) -> str:
        return f"hub {self.repository.repo} {self.repository.revision}"

    def commit(self, hashes: dict[str, str]) -> None:
        """Give the gathered folder the model's name, and write the manifest."""
        files = tuple(
            store.ManifestFile(self._local(file), file.size, hashes[file.name])
            for file in self.candidate.files
        )
        lines = "".join(f"{file.sha256}  {file.name}\n" for file in files)
        single = files[0].sha256 if len(files) == 1 else None
        repository = self.repository
        manifest = store.Manifest(
            name=self.name,
            title="",
            licence=repository.licence or "unknown",
            source=self._source_in_words(),
            bytes=self.candidate.bytes,
            sha256=single or hashlib.sha256(lines.encode()).hexdigest(),
            repo=repository.repo,
            revision=repository.revision,
            files=files,
        )
        old = store.staging_path(self.folder, "old")
        self.manifest_path.unlink(missing_ok=True)
        if self.folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.folder.replace(old)
        self.staging.replace(self.folder)
        store.write_manifest(self.manifest_path, manifest)
        shutil.rmtree(old, ignore_errors=True)
