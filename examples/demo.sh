#!/bin/sh
# Make a video of an image: examples/demo.sh IMAGE [VIDEO]
#
# It starts `vgen serve` for itself; with SERVER_URL=http://host:8000 it uses a server that runs. The preset is VGEN_PRESET
# if that makes videos of images, else svd-xt. SERVER_KEY is sent where the server wants keys.
set -eu

image=${1:?"usage: demo.sh IMAGE [VIDEO]"}
video=${2:-output_video.mp4}
[ -f "$image" ] || { echo "demo.sh: $image: there is no such file" >&2; exit 2; }
url=${SERVER_URL:-}
folder=$(mktemp -d)
server=

stop() {
    [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" || true; }
    rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT TERM

ask() {
    curl --silent --show-error ${SERVER_KEY:+--header "Authorization: Bearer $SERVER_KEY"} "$@"
}

# The text of a field of a JSON object on standard input.
field() {
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"
}

if [ -z "$url" ]; then
    : >"$folder/log"
    vgen serve --port 0 2>"$folder/log" &
    server=$!
    while [ -z "$url" ]; do
        kill -0 "$server" 2>/dev/null || { cat "$folder/log" >&2; exit 1; }
        url=$(sed -n 's/^serving on \(http[^ ]*\).*/\1/p' "$folder/log")
        sleep 0.2
    done
fi

answer=$(ask --form "file=@\"$image\"" "$url/generate")
task=$(printf '%s' "$answer" | field task_id)
[ -n "$task" ] || { echo "demo.sh: $answer" >&2; exit 1; }
echo "task $task"

status=
while :; do
    answer=$(ask "$url/status/$task")
    last=$status
    status=$(printf '%s' "$answer" | field status)
    [ "$status" = "$last" ] || echo "$status"
    case $status in
        queued | started) sleep 1 ;;
        finished) break ;;
        *) echo "demo.sh: $answer" >&2; exit 1 ;;
    esac
done

ask --fail --output "$video" "$url/results/$task"
echo "$video"
