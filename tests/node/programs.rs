//! What test images are given to run as `$RUN`.

use serde_json::{Value, json};

use crate::place::container;

/// Forwards each connection to the application's port 8080.
pub const PROXY: &str = r#"exec nc -ll -p "$PORT" -e nc 127.0.0.1 8080"#;
/// An application whose port leads to the twin that has taken over.
pub const FRONT: &str = r#"exec nc -ll -p "$PORT" -e sh -c 'exec nc 127.0.0.1 "$(cat /hand-over/port)"'"#;
/// Appends numbered lines to `/logs/app.log`, 50 a second at most, and serves that folder.
pub const WRITER: &str = include_str!("programs/writer.sh");
/// Appends the lines of `/logs/app.log` to `/logs/delivered`.
pub const COLLECTOR: &str = include_str!("programs/collector.sh");
/// One of the twins of a hot upgrade: serves the name of its image; `/hand-over` is the shared volume.
pub const TWIN: &str = include_str!("programs/twin.sh");

/// A container of a test image that runs this script; ready when its port answers.
pub fn running(script: &str, name: &str, image: &str, port: u16) -> Value {
    let mut container = container(name, image, port);
    container["env"].as_array_mut().unwrap().push(json!({"name": "RUN", "value": script}));
    container
}
