# Like fluentd: delivers the lines of a log file, and goes on from the position that it keeps on the volume.
httpd -p "$PORT" -h /www && echo ready >/www/ready
cd /logs && touch app.log position
position=$(cat position)
position=${position:-0}
echo "goes on after $position bytes"
tail -c "+$((position + 1))" -f app.log | while read -r line; do
    echo "$line" >>delivered
    position=$((position + ${#line} + 1))
    # Renamed, so that there is a whole position at any time.
    echo "$position" >position.new && mv position.new position
done
