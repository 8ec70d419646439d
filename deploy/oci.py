#!/usr/bin/env python3
"""Writes an OCI image layout (image-spec 1.0) of one layer, and the same as a tar archive.

  oci.py ROOT HOME VERSION ARCHITECTURE     HOME/oci and HOME/portcullis-VERSION-ARCHITECTURE.oci.tar
"""

import datetime
import gzip
import hashlib
import io
import json
import os
import pathlib
import sys
import tarfile

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))

# What a container runs with. The health check is Docker's own; Kubernetes has probes of its own.
CONFIG = {
    "User": "10001:10001",
    "Env": ["PATH=/usr/bin", "RUNTIME_DIRECTORY=/run/portcullis"],
    "Entrypoint": ["/usr/bin/portcullis"],
    "Cmd": ["run", "--config", "/etc/portcullis/portcullis.toml"],
    "WorkingDir": "/",
    "StopSignal": "SIGTERM",
    "ExposedPorts": {"5683/udp": {}, "5684/udp": {}, "5683/tcp": {}, "5684/tcp": {}, "8683/tcp": {}, "9683/tcp": {}},
    "Volumes": {"/var/lib/portcullis": {}},
    "Healthcheck": {
        "Test": ["CMD", "/usr/bin/portcullis", "status"],
        "Interval": 10_000_000_000,
        "Timeout": 5_000_000_000,
        "StartPeriod": 30_000_000_000,
        "Retries": 3,
    },
}


def layer(root):
    """The tree as a tar archive whose bytes depend on nothing but its content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            entry = archive.gettarinfo(path, arcname=str(path.relative_to(root)))
            entry.mtime = EPOCH
            entry.uname = entry.gname = ""
            if entry.isreg():
                with open(path, "rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)
    return out.getvalue()


def main():
    root, home, version, architecture = sys.argv[1:]
    home = pathlib.Path(home)
    blobs = home / "oci" / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def document(value, media_type):
        return blob(json.dumps(value, sort_keys=True, separators=(",", ":")).encode(), media_type)

    tree = layer(pathlib.Path(root))
    created = datetime.datetime.fromtimestamp(EPOCH, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {
        "org.opencontainers.image.title": "portcullis",
        "org.opencontainers.image.description": "A DTLS-first CoAP gateway: CoAP and CoAPs in front, any MQTT broker behind",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0 OR MIT",
        "org.opencontainers.image.created": created,
    }
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": created,
        "config": CONFIG | {"Labels": about},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tree).hexdigest()}"]},
        "history": [{"created": created, "created_by": "deploy/image.sh"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": document(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [blob(gzip.compress(tree, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")],
        "annotations": about,
    }
    described = document(manifest, manifest["mediaType"])
    described["annotations"] = {"org.opencontainers.image.ref.name": version}
    described["platform"] = {"architecture": architecture, "os": "linux"}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [described]}
    layout = home / "oci"
    (layout / "index.json").write_text(json.dumps(index, sort_keys=True, indent=1) + "\n")
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}\n')
    with tarfile.open(home / f"portcullis-{version}-{architecture}.oci.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(layout.rglob("*")):
            entry = archive.gettarinfo(path, arcname=str(path.relative_to(layout)))
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = EPOCH, 0, 0, "", ""
            if entry.isreg():
                with open(path, "rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)


main()
