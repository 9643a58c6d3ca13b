#!/bin/sh
# Push an image from a CI job, under one or more tags, and verify what the registry has.
#
#   push.sh SOURCE NAMESPACE/IMAGE TAG...
#
# SOURCE is what skopeo copies from: oci-archive:image.tar, docker-archive:image.tar,
# docker-daemon:app:latest, oci:directory:tag.
#
#   REGISTRY       host[:port] of the registry
#   REGISTRY_KEY   secret key that may write to the namespace: a masked variable of the CI system
#   REGISTRY_HTTP  1 for a registry without TLS, such as one on this machine
set -eu

if [ $# -lt 3 ]; then
    echo "usage: push.sh SOURCE NAMESPACE/IMAGE TAG..." >&2
    exit 2
fi
source=$1
image=docker://${REGISTRY:?must be set to HOST[:PORT]}/$2
first=$3
shift 3

tls=true
if [ "${REGISTRY_HTTP:-0}" = 1 ]; then
    tls=false
fi

# The login ends with the job: other jobs of this machine do not find it.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export REGISTRY_AUTH_FILE="$scratch/auth.json"

# The key goes in by standard input, so no process list or log shows it.
printf %s "${REGISTRY_KEY:?must be set to a secret key}" \
    | skopeo login --tls-verify="$tls" --username nologin --password-stdin "$REGISTRY"

# --all pushes every platform of a multi-platform image.
skopeo copy --all --dest-tls-verify="$tls" --digestfile "$scratch/digest" "$source" "$image:$first"
digest=$(cat "$scratch/digest")

# Further tags name the same manifest: nothing is uploaded again.
for tag in "$@"; do
    skopeo copy --all --src-tls-verify="$tls" --dest-tls-verify="$tls" \
        "$image@$digest" "$image:$tag"
done

for tag in "$first" "$@"; do
    found=$(skopeo inspect --raw --tls-verify="$tls" "$image:$tag" | sha256sum | cut -d ' ' -f 1)
    if [ "sha256:$found" != "$digest" ]; then
        echo "push.sh: $image:$tag is sha256:$found, not $digest: another job moved the tag" >&2
        exit 1
    fi
done
echo "${image#docker://}@$digest"
