"""A Hub of the tests' own on 127.0.0.1, on two ports: the Hub, and the store of large files to which it redirects.

It speaks what the clients of models and data sets say to it, and does on demand what goes wrong in the world: see
`HubServer.fault`. It knows three tokens and checks who may see and write what.
"""

import base64
import hashlib
import json
import re
import socket
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub import constants


LARGE = (".safetensors", ".pt")
DATE = "2026-01-01T00:00:00.000Z"


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@dataclass
class Commit:
    """A commit: all files as they stand after it, and which of them are kept as large files."""

    message: str
    author: str
    files: dict
    large: set
    oid: str


@dataclass
class Repository:
    """Branches as lists of commits, oldest first; tags as ids of commits."""

    private: bool = False
    branches: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)

    def find(self, revision):
        """The commit that a branch, a tag or an id names, or `None`."""
        if self.branches.get(revision):
            return self.branches[revision][-1]
        oid = self.tags.get(revision, revision)
        return next((commit for commits in self.branches.values() for commit in commits if commit.oid == oid), None)


class HubServer:
    """The server; a context manager that starts and stops it.

    Args:
        lfs: Whether large files go to the file store (LFS); without it all files go in the commit.
        multipart_size: Larger files go to the store in parts of this size.
    """

    TOKENS = {"hf_write": ("me", "write"), "hf_read": ("me", "read"), "hf_other": ("other", "write")}
    MEMBERS = {"team": {"me"}}

    def __init__(self, lfs=True, multipart_size=None):
        self.lfs, self.multipart_size = lfs, multipart_size
        self.repositories, self.objects, self.parts = {}, {}, {}
        self.requests, self.uploads, self.faults, self.errors = [], [], [], []
        self.lock, self.stopped = threading.RLock(), threading.Event()
        self.ports = [Port(self, handler) for handler in (HubHandler, StoreHandler)]
        self.endpoint, self.store = (f"http://127.0.0.1:{port.server_port}" for port in self.ports)

    def __enter__(self):
        for port in self.ports:
            threading.Thread(target=port.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.stopped.set()
        for port in self.ports:
            port.shutdown()
            port.server_close()
        assert not self.errors, self.errors

    def environment(self, home, token=None):
        """Variables of a process whose Hub is this one."""
        return {
            "HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_MODULES_CACHE": f"{home}/modules",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN": token or "", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }  # fmt: skip

    def connect(self, monkeypatch, xet=False, token="hf_write"):
        """Make this the Hub of `HfApi` in this process; with `xet` the client is as it is by default."""
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", token)

    def fault(self, where, what, times=1):
        """Let something go wrong at the next `times` requests of a kind.

        Args:
            where: "any" (of the Hub), "auth", "create", "preupload", "batch", "commit", "validate", "resolve"; of the
                file store "put" and "get".
            what: A status to answer; "drop" (the connection breaks: in the middle of what is put or got, before the
                answer elsewhere); "lost" (done, but the answer does not arrive); "hang" (no answer); "corrupt" (a byte
                of what is got is wrong); "truncate" (half of it, with a length that fits); or a function to call
                before the request is handled as ever.
        """
        self.faults += [(where, what)] * times

    def clear_faults(self):
        self.faults.clear()

    def take_fault(self, kind, on_hub):
        with self.lock:
            for index, (where, what) in enumerate(self.faults):
                if where == kind or (where == "any" and on_hub):
                    del self.faults[index]
                    return what
        return None

    # Repositories. `repo_type` is "model" or "dataset".

    def create(self, repo_id, files=None, repo_type="model", private=False, revision="main"):
        """Make a repository, or a branch of one that is there; returns the id of the last commit."""
        with self.lock:
            repository = self.repositories.setdefault((repo_type, repo_id), Repository(private))
            repository.branches.setdefault(revision, [])
            oid = self.commit(repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"}, "start", repo_type, revision)
            return self.commit(repo_id, files, "files", repo_type, revision) if files else oid

    def commit(self, repo_id, files, message="by someone else", repo_type="model", revision="main", author="someone"):
        """Commit files, `None` for one to delete; returns the id."""
        with self.lock:
            commits = self.repositories[repo_type, repo_id].branches[revision]
            now = dict(commits[-1].files) if commits else {}
            now |= files
            now = {path: content for path, content in now.items() if content is not None}
            large = {path for path, content in now.items() if self.is_large(path, len(content))}
            seed = f"{repo_id}{revision}{len(commits)}{message}{sorted((p, git_sha1(c)) for p, c in now.items())}"
            commits.append(Commit(message, author, now, large, hashlib.sha1(seed.encode()).hexdigest()))
            return commits[-1].oid

    def is_large(self, path, size):
        return self.lfs and size > 0 and (path.endswith(LARGE) or size > 1_000_000)

    def files(self, repo_id, revision="main", repo_type="model"):
        """Path and content of what stands there."""
        return dict(self.repositories[repo_type, repo_id].find(revision).files)

    def commits(self, repo_id, revision="main", repo_type="model"):
        """Newest first."""
        return self.repositories[repo_type, repo_id].branches[revision][::-1]


class Port(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub

    def handle_error(self, request, client_address):
        """Clients hang up, and here they are made to; anything else is a fault of the server."""
        if not isinstance(sys.exc_info()[1], OSError):
            self.hub.errors.append(sys.exc_info()[1])


class Handler(BaseHTTPRequestHandler):
    """What both ports share: answers, and faults."""

    protocol_version = "HTTP/1.1"
    is_lost = False

    def log_message(self, *args):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def hang_up(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status, content=b"", part=None, **headers):
        """Send an answer; of the content only `part` bytes, if given, before the connection breaks."""
        if self.is_lost:
            return self.hang_up()
        if not isinstance(content, bytes):
            content, headers = json.dumps(content).encode(), {"Content_Type": "application/json", **headers}
        self.send_response(status)
        for name, value in {"Content_Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if part is None else content[:part])
        if part is not None:
            self.hang_up()

    def serve(self):
        self.hub, self.is_lost = self.server.hub, False
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if self.hub.stopped.is_set():  # a connection that is still open
            return self.hang_up()
        is_hub = isinstance(self, HubHandler)
        if is_hub:
            self.hub.requests.append((self.command, self.path))
        what = self.hub.take_fault(self.kind(), is_hub)
        if callable(what):
            what = what()
        if what == "hang":
            self.hub.stopped.wait()
            return self.hang_up()
        if isinstance(what, int):
            self.body()
            return self.answer(what, {"error": "out of order"})
        self.is_lost = what == "lost"
        self.handle_request(what)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve


class StoreHandler(Handler):
    """The store of large files, by checksum; nobody shows a token here."""

    def kind(self):
        return "put" if self.command in ("PUT", "POST") else "get"

    def handle_request(self, what):
        if "Authorization" in self.headers:
            return self.answer(400, {"error": "the token went to the file store"})
        return self.get(what) if self.kind() == "get" else self.put(what)

    def put(self, what):
        length = int(self.headers.get("Content-Length") or 0)
        if what == "drop":
            self.rfile.read(length // 2)
            return self.hang_up()
        content, name, hub = self.rfile.read(length), self.parts[-1], self.hub
        if self.command == "POST":  # all parts are there
            number = len(json.loads(content)["parts"])
            content = b"".join(hub.parts[name, str(index + 1)] for index in range(number))
        elif len(self.parts) == 3:
            hub.parts[self.parts[1], name] = content
            hub.uploads.append(len(content))
            return self.answer(200, ETag=f'"{sha256(content)}"')
        else:
            hub.uploads.append(len(content))
        if sha256(content) != name:
            return self.answer(400, {"error": "not the content that was announced"})
        hub.objects[name] = content
        return self.answer(200, ETag=f'"{name}"')

    def get(self, what):
        content = self.hub.objects.get(self.parts[-1])
        if content is None:
            return self.answer(404)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        headers = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if asked else {}
        content, middle = content[start:], (len(content) - start) // 2
        if what == "corrupt":
            content = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        if what == "truncate":
            content = content[:middle]
        return self.answer(206 if asked else 200, content, middle if what == "drop" else None, **headers)


class HubHandler(Handler):
    """The Hub itself."""

    def kind(self):
        path = "/".join(self.parts)
        kinds = {
            r"api/(whoami-v2|.*/auth-check.*)": "auth", r"api/repos/create": "create", r".*/preupload/.*": "preupload",
            r".*/objects/batch": "batch", r"api/.*/commit/.*": "commit", r"api/validate-yaml": "validate",
            r".*/resolve/.*": "resolve",
        }  # fmt: skip
        return next((kind for pattern, kind in kinds.items() if re.fullmatch(pattern, path)), None)

    def handle_request(self, what):
        self.content = self.body()
        if what == "drop":
            return self.hang_up()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        self.user, self.role = self.hub.TOKENS.get(token, (None, None))
        if token and self.user is None:
            return self.answer(401, {"error": "Invalid credentials in Authorization header"})
        with self.hub.lock:
            return self.route()

    def json(self):
        return json.loads(self.content or b"{}")

    def may_write(self, namespace):
        return self.role == "write" and (namespace == self.user or self.user in self.hub.MEMBERS.get(namespace, ()))

    def missing(self, code, **headers):
        status = 401 if code == "RepoNotFound" else 404
        return self.answer(status, {"error": "not found"}, X_Error_Code=code, **headers)

    def forbidden(self):
        if self.user is None:
            return self.answer(401, {"error": "Unauthorized"})
        return self.answer(403, {"error": "Forbidden: you must use a write token of somebody who may write here"})

    def route(self):
        parts = self.parts
        if parts == ["api", "whoami-v2"]:
            return self.whoami()
        if parts == ["api", "repos", "create"]:
            return self.create()
        if parts == ["api", "validate-yaml"]:
            return self.validate()
        if parts == ["lfs", "verify"]:
            asked = self.json()
            return self.answer(200 if len(self.hub.objects.get(asked["oid"], b"")) == asked["size"] else 404, {})
        is_api = parts[0] == "api"
        parts = parts[is_api:]
        repo_type = "dataset" if parts[0] == "datasets" else "model"
        parts = parts[parts[0] in ("datasets", "models") :]
        if len(parts) < 2:
            return self.missing("EntryNotFound")
        repo_id = "/".join(parts[:2]).removesuffix(".git")
        self.repository, self.key = self.hub.repositories.get((repo_type, repo_id)), (repo_type, repo_id)
        self.namespace, rest = parts[0], parts[2:]
        if self.repository is None or (self.repository.private and not self.is_member()):
            return self.missing("RepoNotFound")
        if not is_api and rest[:1] == ["info"]:
            return self.batch()
        if not is_api:
            return self.resolve(rest[1], "/".join(rest[2:])) if rest[:1] == ["resolve"] else self.missing("x")
        return self.api(*rest)

    def is_member(self):
        return self.user is not None and (
            self.namespace == self.user or self.user in self.hub.MEMBERS.get(self.namespace, ())
        )

    def api(self, verb="revision", revision="main", *path):
        if self.command in ("POST", "DELETE") and verb != "paths-info" and not self.may_write(self.namespace):
            return self.forbidden()
        if verb == "auth-check":
            is_allowed = revision != "write" or self.may_write(self.namespace)
            return self.answer(200, {}) if is_allowed else self.forbidden()
        if verb == "refs":
            return self.refs()
        if verb == "branch":
            return self.branch(revision)
        self.commit = self.repository.find(revision)
        if self.commit is None:
            return self.missing("RevisionNotFound")
        if verb == "revision":
            return self.info()
        if verb == "tree":
            return self.tree("/".join(path))
        if verb == "paths-info":
            asked = parse_qs(self.content.decode()).get("paths", [])
            return self.answer(200, [self.entry(path) for path in asked if path in self.commit.files])
        if verb == "commits":
            author = {"authors": [{"user": "someone"}], "date": DATE}
            commits = self.repository.branches.get(revision, [])[::-1]
            return self.answer(200, [{"id": c.oid, "title": c.message, "message": "", **author} for c in commits])
        if verb == "tag":
            return self.tag(self.json()["tag"])
        if verb == "preupload":
            return self.preupload()
        if verb == "commit":
            return self.do_commit(revision)
        return self.missing("EntryNotFound")

    def whoami(self):
        if self.user is None:
            return self.answer(401, {"error": "Invalid username or password."})
        token = {"accessToken": {"role": self.role, "displayName": "a token"}, "type": "access_token"}
        teams = [{"name": name, "type": "org"} for name, members in self.hub.MEMBERS.items() if self.user in members]
        return self.answer(200, {"type": "user", "name": self.user, "orgs": teams, "auth": token})

    def create(self):
        asked = self.json()
        namespace = asked.get("organization") or self.user
        repo_id = f"{namespace}/{asked['name']}"
        kind = asked.get("type") or "model"
        if not self.may_write(namespace):
            return self.forbidden()
        url = {"url": f"{self.hub.endpoint}/{'datasets/' * (kind == 'dataset')}{repo_id}"}
        if (kind, repo_id) in self.hub.repositories:
            return self.answer(409, {"error": "You already created this model repo", **url})
        self.hub.create(repo_id, repo_type=kind, private=asked.get("visibility") == "private")
        return self.answer(200, url)

    def validate(self):
        """What of the metadata would be refused: no YAML, or a model-index that lacks what each result needs."""
        text = self.json()["content"]
        block = re.match(r"---\n(.*?)\n---\s", text, re.DOTALL)
        try:
            metadata = yaml.safe_load(block[1]) if block else {}
            for model in (metadata or {}).get("model-index", []):
                for result in model["results"]:
                    assert model["name"] and result["task"]["type"] and result["dataset"]["name"]
                    assert result["dataset"]["type"] and all(m["type"] and "value" in m for m in result["metrics"])
        except (yaml.YAMLError, KeyError, AssertionError, TypeError) as error:
            return self.answer(400, {"errors": [{"message": f"invalid metadata: {type(error).__name__}"}]})
        return self.answer(200, {"errors": [], "warnings": []})

    def refs(self):
        refs = {"branches": [], "tags": [], "converts": []}
        for name, commits in self.repository.branches.items():
            kind, ref = ("converts", name) if name.startswith("refs/") else ("branches", f"refs/heads/{name}")
            refs[kind].append({"name": name, "ref": ref, "targetCommit": commits[-1].oid})
        for name, oid in self.repository.tags.items():
            refs["tags"].append({"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid})
        return self.answer(200, refs)

    def branch(self, name):
        if name in self.repository.branches:
            return self.answer(409, {"error": "Reference already exists"})
        start = self.repository.find(self.json().get("startingPoint") or "main")
        if start is None:
            return self.missing("RevisionNotFound")
        self.repository.branches[name] = [start]
        return self.answer(200, {})

    def tag(self, name):
        if name in self.repository.tags:
            return self.answer(409, {"error": "Tag reference exists already"})
        self.repository.tags[name] = self.commit.oid
        return self.answer(200, {})

    def oid(self, path):
        content = self.commit.files[path]
        return sha256(content) if path in self.commit.large else git_sha1(content)

    def entry(self, path):
        content = self.commit.files[path]
        entry = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
        if path in self.commit.large:
            entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
        return entry

    def info(self):
        readme = self.commit.files.get("README.md", b"").decode()
        block = re.match(r"---\n(.*?)\n---\s", readme, re.DOTALL)
        siblings = []
        for path in self.commit.files:
            entry = self.entry(path)
            sibling = {"rfilename": path}
            if "blobs" in self.query:
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if "lfs" in entry:
                    sibling["lfs"] = {**entry["lfs"], "sha256": entry["lfs"]["oid"]}
            siblings.append(sibling)
        card = yaml.safe_load(block[1]) if block else {}
        about = {"id": self.key[1], "sha": self.commit.oid, "private": self.repository.private, "tags": []}
        return self.answer(200, {**about, "siblings": siblings, "cardData": card, "disabled": False, "gated": False})

    def tree(self, folder):
        inside = [path for path in self.commit.files if not folder or path.startswith(f"{folder}/")]
        if folder and not inside:
            return self.missing("EntryNotFound")
        start = len(folder) + 1 if folder else 0
        names = {path: path[start:].split("/") for path in inside}
        is_deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = [self.entry(path) for path, name in names.items() if is_deep or len(name) == 1]
        folders = {path[: path.rindex("/")] for path, name in names.items() if len(name) > 1}
        if not is_deep:
            folders = {path[:start] + name[0] for path, name in names.items() if len(name) > 1}
        entries += [{"type": "directory", "path": path, "oid": "d" * 40, "size": 0} for path in sorted(folders)]
        return self.answer(200, entries)

    def preupload(self):
        files = []
        for file in self.json()["files"]:
            mode = "lfs" if self.hub.is_large(file["path"], file["size"]) else "regular"
            known = {"oid": self.oid(file["path"])} if file["path"] in self.commit.files else {}
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known})
        return self.answer(200, {"files": files})

    def batch(self):
        if not self.may_write(self.namespace):
            return self.forbidden()
        objects = []
        for asked in self.json()["objects"]:
            oid, size, limit = asked["oid"], asked["size"], self.hub.multipart_size
            answer = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                upload = {"href": f"{self.hub.store}/upload/{oid}"}
                if limit and size > limit:
                    numbers = range(1, -(-size // limit) + 1)
                    urls = {str(number): f"{self.hub.store}/part/{oid}/{number}" for number in numbers}
                    upload["header"] = {"chunk_size": str(limit), **urls}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.endpoint}/lfs/verify"}}
            objects.append(answer)
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def do_commit(self, revision):
        lines = [json.loads(line) for line in self.content.splitlines() if line.strip()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, self.commit.oid):
            return self.answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = {}
        for key, value in ((line["key"], line["value"]) for line in lines[1:]):
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self.answer(400, {"error": "a large file is not there"})
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                files[value["path"]] = None
            elif key == "deletedFolder":
                files |= {path: None for path in self.commit.files if path.startswith(value["path"])}
        oid = self.hub.commit(self.key[1], files, header["summary"], self.key[0], revision, self.user)
        url = f"{self.hub.endpoint}/{self.key[1]}/commit/{oid}"
        return self.answer(200, {"success": True, "commitUrl": url, "commitOid": oid})

    def resolve(self, revision, path):
        self.commit = self.repository.find(revision)
        if self.commit is None:
            return self.missing("RevisionNotFound")
        about = {"X_Repo_Commit": self.commit.oid}
        if path not in self.commit.files:
            return self.missing("EntryNotFound", **about)
        content, oid = self.commit.files[path], self.oid(path)
        if path not in self.commit.large:
            return self.answer(200, content, ETag=f'"{oid}"', **about)
        self.hub.objects[oid] = content
        links = {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": len(content)}
        return self.answer(302, b"", Location=f"{self.hub.store}/get/{oid}", **links, **about)
