#!/bin/sh
# Process 1 of every test container. /www/ready says whether it is ready; port $PORT serves it over HTTP, too.
# $READY_AFTER: seconds until then, or "never"; $EXIT_AFTER: seconds until it ends with $EXIT_CODE, or empty;
# $TAIL: a file to follow, or empty. $RUN: a shell script to run instead, which serves and is ready as it likes; the first
# argument "idle": not even that.
trap 'echo "$IMAGE: terminated"; exit 0' TERM
echo "$IMAGE: started, CONFIG=$CONFIG"
mkdir -p /www && echo "$IMAGE" >/www/index.html
if [ -n "$RUN" ] && [ "$1" != idle ]; then
    sh -c "$RUN" & wait $!
    exit
fi
httpd -p "$PORT" -h /www
if [ -n "$EXIT_AFTER" ]; then
    touch /www/ready
    sleep "$EXIT_AFTER" & wait $!
    exit "$EXIT_CODE"
fi
if [ "$READY_AFTER" != never ]; then
    sleep "$READY_AFTER" & wait $!
    echo ready >/www/ready
fi
if [ -n "$TAIL" ]; then
    tail -F "$TAIL" & wait $!
fi
while true; do sleep 3600 & wait $!; done
