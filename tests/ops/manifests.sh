#!/usr/bin/env bash
# Checks what deploy/ says against the schemas of Kubernetes and Compose, and its configurations with the binary $1.
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/../.."
home=$PWD/target/deploy
mkdir -p "$home"
wanted="kubernetes-validate==1.37.0 compose-spec==0.2.1"
if [ "$(cat "$home/venv/wanted" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$home/venv"
    python3 -m venv "$home/venv"
    # shellcheck disable=SC2086 # words
    "$home/venv/bin/pip" install --quiet --disable-pip-version-check $wanted
    echo "$wanted" >"$home/venv/wanted"
fi
fail() { echo "FAILED: $*" >&2; exit 1; }

kustomize=(kubectl kustomize)
if ! kubectl kustomize deploy/kubernetes >/dev/null 2>&1; then
    [ -x "$home/kustomize" ] || GOBIN=$home go install sigs.k8s.io/kustomize/kustomize/v5@v5.5.0
    kustomize=("$home/kustomize" build)
fi
"${kustomize[@]}" deploy/kubernetes >"$home/all.yaml"
for version in 1.28 1.37; do
    "$home/venv/bin/kubernetes-validate" --strict --quiet -k "$version" "$home/all.yaml"
    # And it would see a word that is none.
    sed 's/readinessProbe/readynessProbe/' "$home/all.yaml" >"$home/wrong.yaml"
    if "$home/venv/bin/kubernetes-validate" --strict --quiet -k "$version" "$home/wrong.yaml" >/dev/null 2>&1; then
        fail "a wrong manifest passes"
    fi
done
"$home/venv/bin/python" - <<'PY'
import pathlib
import compose_spec, yaml
text = pathlib.Path("deploy/compose/compose.yaml").read_text()
compose_spec.ComposeSpecification.model_validate(yaml.safe_load(text))
try:
    compose_spec.ComposeSpecification.model_validate(yaml.safe_load(text.replace("read_only: true", "read_only: [true]")))
except ValueError:
    pass
else:
    raise SystemExit("a wrong compose file passes")
PY

# The configurations, with what the pages have one make for them.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$binary" certs dev --dir "$work/keys" >/dev/null
"$binary" psk add lamp-1 --psk-file "$work/keys/psk.txt" >/dev/null
install -m 600 /dev/null "$work/keys/users.txt"
cp deploy/compose/portcullis.toml "$work/keys/"
(cd "$work/keys" && "$binary" check-config --config portcullis.toml)
chmod 440 "$work/keys/"*.txt "$work/keys/server.key"
mkdir "$work/etc"
cp deploy/kubernetes/portcullis.toml "$work/etc/"
(cd "$work/etc" && CREDENTIALS_DIRECTORY=$work/keys "$binary" check-config --config portcullis.toml)
echo "the manifests are fine"
