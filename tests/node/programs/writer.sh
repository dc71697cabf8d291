# An application that logs into a file on a volume, and lets us look at the volume.
echo ready >/logs/ready && httpd -p "$PORT" -h /logs
number=0
while usleep 20000; do
    number=$((number + 1))
    echo "line $number" >>/logs/app.log
done
