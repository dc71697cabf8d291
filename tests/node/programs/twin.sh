# A sidecar of which two can run: each version serves at a port of its own. It takes over by writing the port into a file on a
# volume that it shares with the application, and is ready from then on.
port=$((9000 + SIDECARSET_VERSION))
httpd -p "$port" -h /www
until wget -q -O /dev/null "http://127.0.0.1:$port/"; do usleep 100000; done
# Started again while another one is to take over, it only serves on.
if [ "$SIDECARSET_VERSION" -gt "$SIDECARSET_VERSION_ALT" ]; then
    echo "$port" >"/hand-over/$port" && mv "/hand-over/$port" /hand-over/port
fi
echo ready >/www/ready
sleep 2147483647
