#!/usr/bin/env bash
# Builds the Dockerfile without Docker, and runs vgen in the image as its own user. For maintainers; no test calls it.
#
#     sudo tests/image_trial.sh [ROOT_FILES]
#
# Needs root, buildah, debootstrap, about 8 GB of disk and a package index. Where the base image that the Dockerfile
# names is not there, one is made from Debian and given its name: the same Debian release and Python version, so that the
# build is tried, not the base. ROOT_FILES is a folder that is laid over that base's root, such as etc/pip.conf and
# certificates for a package mirror.
set -euo pipefail
cd "$(dirname "$0")/.."

base=$(sed -n 's/^FROM //p' Dockerfile)
image=localhost/vgen:trial
files=${1:-}
scratch=$(mktemp -d)
export BUILDAH_ISOLATION=chroot
containers=()
clean_up() {
    for container in "${containers[@]}"; do buildah rm "$container" > /dev/null || true; done
    rm -rf "$scratch"
}
trap clean_up EXIT

say() { printf '\n== %s\n' "$*"; }

if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
    say "base image $base from Debian"
    packages=ca-certificates,python3,python3-pip,python3-venv
    debootstrap --variant=minbase --include="$packages" bookworm "$scratch/root" > "$scratch/log" \
        || { tail -n 20 "$scratch/log"; exit 1; }
    ln -s python3 "$scratch/root/usr/bin/python"
    rm -f "$scratch"/root/usr/lib/python3*/EXTERNALLY-MANAGED # the official image's pip installs for everybody too
    if [ -n "$files" ]; then cp -a "$files/." "$scratch/root/"; fi
    container=$(buildah from scratch)
    containers+=("$container")
    buildah copy --quiet "$container" "$scratch/root" /
    buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin --env LANG=C.UTF-8 "$container"
    buildah commit --quiet "$container" "docker.io/library/$base"
    rm -rf "$scratch/root"
fi

say "build"
buildah build --pull-never --layers --build-arg "TORCH_INDEX=${TORCH_INDEX-https://download.pytorch.org/whl}" --tag "$image" .

# A volume: it belongs to the image's user, as an engine makes it from a folder of the image.
volume="$scratch/volume"
mkdir "$volume"
chmod 755 "$scratch"
chown 10001:10001 "$volume"
printf 'a lantern on a lake\na kite over dunes\n' > "$scratch/prompts.txt"

container=$(buildah from --pull-never "$image")
containers+=("$container")
in_image() {
    say "$*"
    buildah run --volume "$volume:/var/lib/vgen/home" --volume "$scratch/prompts.txt:/prompts.txt:ro" \
        --env VGEN_HOME=/var/lib/vgen/home "$container" -- "$@"
}

in_image sh -c 'id && test "$(id -u)" = 10001 && ! touch /opt/vgen/written 2> /dev/null'
in_image vgen --help
in_image vgen run /prompts.txt
in_image vgen db check
in_image vgen doctor
in_image vgen results latest
# Until it is told to stop: `timeout` then ends with 0, since beat does.
in_image sh -c 'export VGEN_BROKER_URL=redis://127.0.0.1:1/0; timeout --preserve-status 20 vgen beat --schedule /var/lib/vgen/beat/schedule \
    && ls /var/lib/vgen/beat && test -n "$(ls /var/lib/vgen/beat)"'

clips=$(find "$volume" -name '*.mp4' | wc -l)
say "$clips clips in the volume"
test "$clips" = 2
